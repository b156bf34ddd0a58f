"""``foundation bench parallel``: ways to share weights and work among processes, side by side."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

DESCRIPTION = """\
Steps of a recipe on random views in several processes of this machine, for each way of parallel.data in turn: seconds a
step, the peak of resident memory in a process beyond what it held before the model was built, and what travelled over
the loopback device meanwhile (all of this machine's, so that nothing else should use it). Medians over rounds."""

EXAMPLES = """\
examples:
  foundation bench parallel ibot-vits16 --processes 2 --ways ddp fsdp
  foundation bench parallel dinov2-vitl14 heads.cls.prototypes=1024 --processes 4 --ways fsdp hsdp"""

PLACE = "FOUNDATION_BENCH_PARALLEL"
"""Environment variable by which this program tells the processes that it starts where to write."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.files import output_file
    from foundation.ranges import Count, argument

    parser.add_argument("recipe", nargs="?", default="ibot-vits16", help="recipe to time (default: ibot-vits16)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    parser.add_argument("--processes", type=argument(Count), default=2, help="processes (default: 2)")
    parser.add_argument(
        "--ways", nargs="+", default=["ddp", "fsdp"], choices=("ddp", "fsdp", "hsdp", "fairscale"),
        help="values of parallel.data (default: ddp fsdp)",
    )  # fmt: skip
    parser.add_argument("--batch", type=argument(Count), default=4, help="samples of a step together (default: 4)")
    parser.add_argument("--steps", type=argument(Count), default=5, help="timed steps (default: 5)")
    parser.add_argument("--rounds", type=argument(Count), default=3, help="starts of each way, in turn (default: 3)")
    parser.add_argument("--json", type=output_file, help="also write the figures there")


def run(arguments: argparse.Namespace) -> int:
    from foundation.files import write_output

    if PLACE in os.environ:
        return timed(arguments, Path(os.environ[PLACE]))
    import statistics

    from rich.console import Console
    from rich.table import Table

    from foundation.errors import UserError
    from foundation.parallel.launch import again, run_processes
    from foundation.voice import to_stderr

    if arguments.batch % arguments.processes:
        raise UserError(f"--batch {arguments.batch} cannot be divided among {arguments.processes} processes")
    words = ["bench", "parallel", arguments.recipe, *arguments.overrides]
    words += ["--batch", str(arguments.batch), "--steps", str(arguments.steps)]
    found: dict[str, list[dict[str, float]]] = {way: [] for way in arguments.ways}
    for number in range(arguments.rounds):
        for way in arguments.ways:
            with tempfile.TemporaryDirectory() as folder:
                os.environ[PLACE] = folder
                code = run_processes(again([*words, f"parallel.data={way}"]), arguments.processes, say=to_stderr)
                del os.environ[PLACE]
                if code:
                    return code
                every = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
            figures = {name: max(one[name] for one in every) for name in every[0]}
            found[way].append(figures)
            to_stderr(f"round {number + 1} of {arguments.rounds}, {way}: {figures['seconds']:.3f} s a step")
    table = Table(title=f"{arguments.recipe}, batch {arguments.batch}, {arguments.processes} processes")
    for heading in ("way", "s a step", "of the first", "peak MiB of a process", "MB a step over loopback"):
        table.add_column(heading)
    medians = {
        way: {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        for way, rounds in found.items()
    }
    first = medians[arguments.ways[0]]["seconds"]
    for way, figures in medians.items():
        sent = figures["loopback_megabytes"]
        cells = (f"{figures['seconds']:.3f}", f"{figures['seconds'] / first:.2f}", f"{figures['mebibytes']:,.0f}")
        table.add_row(way, *cells, f"{sent:,.1f}")
    Console().print(table)
    if arguments.json:
        write_output(arguments.json, json.dumps({"medians": medians, "rounds": found}, indent=1) + "\n")
    return 0


def timed(arguments: argparse.Namespace, folder: Path) -> int:
    """One of the processes: a step to warm up, then the timed ones."""
    import statistics
    import time

    import torch

    from foundation import config, paths
    from foundation.measure.memory import peak_of_process
    from foundation.parallel.collective import rank, sums_over_ranks, world_size
    from foundation.parallel.process_group import process_group
    from foundation.run.recipe import Recipe
    from foundation.run.rehearsal import Rehearsal, random_batch

    overrides = [*arguments.overrides, f"train.batch_size={arguments.batch}", "train.accumulate=1"]
    recipe = config.load(Recipe, paths.recipe(arguments.recipe), overrides, own=True)
    with process_group(recipe.train.device):
        own = arguments.batch // world_size()
        before = peak_of_process()
        rehearsal = Rehearsal(recipe, arguments.batch)
        batch = random_batch(recipe, own).to(rehearsal.placement.device)
        rehearsal(batch)
        seconds, sent = [], loopback_bytes()
        for _ in range(arguments.steps):
            sums_over_ranks({"together": 1.0})
            begun = time.perf_counter()
            rehearsal(batch)
            if rehearsal.placement.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begun)
        figures = {
            "seconds": statistics.median(seconds),
            "mebibytes": (peak_of_process() - before) / 2**20,
            "loopback_megabytes": (loopback_bytes() - sent) / 1e6 / arguments.steps,
        }
        (folder / f"{rank()}.json").write_text(json.dumps(figures))
    return 0


def loopback_bytes() -> int:
    """Bytes that the loopback device has carried since the machine (or its network namespace) started."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == "lo":
            return int(rest.split()[0])
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
