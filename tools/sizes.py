"""``foundation sizes``: accuracy of a whole family of sub-networks against their size and speed."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundation.encoders.elastic import SubNetwork
    from foundation.probe_command import Job
    from foundation.zoo.extract import Family
    from foundation.zoo.latency import Timing

DESCRIPTION = (
    "Score every sub-network of an encoder that was pretrained for all sizes (POA) by kNN and a linear probe, all of "
    "them in one pass over the data, and draw accuracy against parameters and against measured latency."
)
EXAMPLES = """\
examples:
  foundation sizes runs/mine --train TRAIN --test TEST       every size that the recipe trained (POA)
  foundation sizes runs/mine --train TRAIN --test TEST --sizes w64-d2 w96-d3 w128-d4"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation import probe_options as options
    from foundation.ranges import Count, argument

    options.add_arguments(parser, cache=False)
    options.add_tokens(parser)
    parser.add_argument(
        "--sizes",
        nargs="+",
        metavar="SIZE",
        help="such as w96-d3, or w96-d2-2-6-2 (default: all that the recipe trained; of a "
        "model without an elastic branch all from half its width and depth up)",
    )
    parser.add_argument("--k", type=argument(Count), default=20, help="neighbours that vote (default: %(default)s)")
    parser.add_argument("--epochs", type=argument(Count), help="of the linear probe (default: as foundation linear)")
    parser.add_argument(
        "--treatments",
        nargs="+",
        choices=options.TREATMENTS,
        default=["as-is"],
        help="what is done to the features first; of several the best counts (default: as-is)",
    )
    parser.add_argument(
        "--latency-device",
        metavar="DEVICE",
        help="that the time of one sample is measured on (default: that of --device)",
    )


def run(arguments: argparse.Namespace) -> int:
    from foundation import probe_command as command
    from foundation import probe_options as options
    from foundation.encoders.elastic import Sliced
    from foundation.parallel.threads import default_workers, leave_one_processor
    from foundation.probes import linear, sizes
    from foundation.probes.digests import plain
    from foundation.report.sizes import draw
    from foundation.voice import to_stderr, to_stdout
    from foundation.zoo.extract import Family, parameters_of
    from foundation.zoo.latency import misgivings

    begun = time.time()
    arguments.group = None  # a choice of the probes that leave one out
    job = command.prepare(arguments, needs_test=True)
    family = Family.of(job.loaded)
    wanted = _wanted(arguments, job, family)
    if doubts := family.doubts(wanted):
        to_stderr(f"warning: {doubts}")
    encoder: Any = job.loaded.encoder
    times, timed_on = _latencies(arguments, job, wanted)
    if str(job.device) == "cpu":
        leave_one_processor()
    parts = {str(size): sizes.Subject.part(Sliced(encoder, size)) for size in wanted}
    settings = sizes.Settings(
        k=arguments.k,
        tokens=arguments.tokens,
        treatments=options.treatments(arguments),
        linear=linear.Settings(epochs=arguments.epochs, seed=arguments.seed),
    )
    found = sizes.measure(
        _baselines(arguments, job) | parts,
        job.train,
        job.test,
        settings,
        modality=job.loaded.modality,
        evaluation=job.evaluation,
        device=job.device,
        autocast=arguments.bfloat16,
        batch_size=arguments.batch_size,
        workers=default_workers() if arguments.workers is None else arguments.workers,
        limit=arguments.limit,
    )
    facts: dict[str, dict[str, Any]] = {
        str(size): {"name": "model", "features": str(size), "width": size.width, "depths": list(size.depths),
                    "parameters": parameters_of(encoder, size), **_plain(times[size]),
                    "trained": size in family.trained}
        for size in wanted
    }  # fmt: skip
    rows = [facts.get(name, {"name": name, "features": name}) | row for name, own in found.rows.items() for row in own]
    content = {
        "metric": "top1",
        **job.look(found.train, found.test, arguments.tokens),
        "settings": {**plain(settings), "limit": arguments.limit, "baselines": arguments.baselines,
                     "sizes": list(parts), "trained": family.trained.issuperset(wanted)},
        "latency": timed_on,
        "results": rows,
    }  # fmt: skip
    written = command.save(job, "sizes", content, begun)
    _show(rows, job, timed_on["setting"])
    for warning in misgivings(times):
        to_stderr(f"warning: {warning}")
    to_stdout(written)
    if written.startswith(command.WRITTEN):
        path = Path(written.removeprefix(command.WRITTEN))
        to_stdout(f"{command.WRITTEN}{draw(content, path.with_suffix('.svg'))}")
    return 0


def _wanted(arguments: argparse.Namespace, job: Job, family: Family) -> list[SubNetwork]:
    """The sizes that are asked for, smallest first."""
    from foundation.encoders.elastic import SubNetwork
    from foundation.zoo.extract import parameters_of

    encoder: Any = job.loaded.encoder
    if arguments.sizes is None:
        return list(family.sizes)
    sizes = {SubNetwork.parse(word) for word in arguments.sizes}
    for size in sizes:
        encoder.check_size(size)
    return sorted(sizes, key=lambda size: (parameters_of(encoder, size), size))


def _latencies(
    arguments: argparse.Namespace, job: Job, sizes: Sequence[SubNetwork]
) -> tuple[dict[SubNetwork, Timing], dict[str, Any]]:
    """How long each size takes for one sample, and what that was measured on."""
    from foundation.probe_command import usable_device
    from foundation.probes.results import progress
    from foundation.zoo.extract import stopwatch_for, timed

    device = usable_device(arguments.latency_device) if arguments.latency_device else job.device
    stopwatch = stopwatch_for(job.loaded, device, job.evaluation)
    times = timed(job.loaded.encoder, sizes, stopwatch, lambda items: progress(items, len(items), "latency", "round"))
    return dict(zip(sizes, times, strict=True)), stopwatch.facts()


def _plain(timing: Timing) -> dict[str, Any]:
    return {"seconds": timing.seconds, "spread": timing.spread, "runs": timing.runs}


def _baselines(arguments: argparse.Namespace, job: Job) -> dict[str, Any]:
    """What a score says little without: the whole encoder untrained, and the input itself."""
    from foundation.probes.sizes import Subject

    candidates = list(job.candidates())[1:] if arguments.baselines else []
    return {one.name: Subject.of(one.encoder.eval(), pooling=one.name != "raw") for one in candidates}


def _show(rows: Sequence[dict[str, Any]], job: Job, setting: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from foundation.probes.table import percent
    from foundation.zoo.latency import Timing

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("size", no_wrap=True)
    for name in ("parameters", "one sample", "spread", "runs", "kNN", "linear"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in dict.fromkeys(row["features"] for row in rows):
        own = [row for row in rows if row["features"] == name]
        best = {probe: max(row["top1"] for row in own if row["probe"] == probe) for probe in ("knn", "linear")}
        first = own[0]
        facts = [""] * 4
        if "seconds" in first:
            timing = Timing(first["seconds"], first["spread"], first["runs"])
            facts = [f"{first['parameters']:,}", *timing.shown()]
        table.add_row(name, *facts, percent(best["knn"]), percent(best["linear"]))
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(f"Sizes of {job.loaded.description}: top-1 in %", markup=False, highlight=False)
    console.print(table)
    console.print(f"Time: median and spread of the middle half of the runs, {setting}", markup=False, highlight=False)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
