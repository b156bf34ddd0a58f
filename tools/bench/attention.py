"""``foundation bench attention``: packed attention over several resolutions, by each way that this machine has."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DESCRIPTION = """\
Time of attention, forward and backward, over the packed rows of a multi-crop batch (2 x 197 and 8 x 37 tokens of each
sample by default) by each way that 'encoder.attention' knows and this machine has, the same random numbers for all.
Also the largest difference from sdpa in float32, and the rule that follows for 'attention: auto' on such a device."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.files import output_file
    from foundation.ranges import Count, Seed, argument

    parser.add_argument("--batch", type=argument(Count), help="samples (default: 4, on a GPU 64)")
    parser.add_argument(
        "--shapes", nargs="+", choices=("ViT-S", "ViT-B", "ViT-L"), default=["ViT-S", "ViT-B", "ViT-L"], help="encoders"
    )
    parser.add_argument(
        "--tokens", nargs=2, type=argument(Count), default=[197, 37], metavar=("GLOBAL", "LOCAL"),
        help="tokens of a global and of a local view (default: 197 37)",
    )  # fmt: skip
    parser.add_argument(
        "--dtypes", nargs="+", choices=("bfloat16", "float32"), default=["bfloat16", "float32"], help="of the tokens"
    )
    parser.add_argument("--rounds", type=argument(Count), default=7, help="timed calls of each (default: 7)")
    parser.add_argument("--threads", type=argument(Count), help="threads of torch (default: its own choice)")
    parser.add_argument("--seed", type=argument(Seed), default=0, help="of the numbers (default: 0)")
    parser.add_argument("--json", type=output_file, help="also write the figures there")


def run(arguments: argparse.Namespace) -> int:
    import json

    import torch
    from rich.console import Console
    from rich.table import Table

    from foundation.encoders.attention import rule_of
    from foundation.files import write_output
    from foundation.measure.attention import compare, multi_crop, quickest, rule
    from foundation.measure.machine import describe, device_of_machine

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = device_of_machine()
    batch = arguments.batch or (64 if device.type == "cuda" else 4)
    dtypes = [getattr(torch, name) for name in arguments.dtypes]
    found = []
    table = Table(title=f"attention, forward and backward, batch {batch}, {device.type}", title_justify="left")
    for column in ("shape", "dtype", "way", "ms", "over the quickest", "error"):
        table.add_column(column, justify="left" if column in ("shape", "dtype", "way") else "right")
    for work in multi_crop(arguments.shapes, batch, dtypes, arguments.tokens):
        results = list(compare(work, device, arguments.rounds, arguments.seed))
        found += results
        dtype, best = str(work.dtype).removeprefix("torch."), quickest(results)
        for one in best:
            table.add_row(
                work.name, dtype, one.way, f"{1e3 * one.speed.seconds:.2f}",
                f"{one.speed.seconds / best[0].speed.seconds:.2f}", f"{one.error:.1e}",
            )  # fmt: skip
    Console().print(table)
    for line in dict.fromkeys(f"{one.way}, {one.work.dtype}: {one.problem}" for one in found if one.problem):
        print(line.replace("torch.", ""))
    told = rule(found)
    print(f"the order that follows (time over the quickest): {told}")
    for current in (rule_of(device, half=True), rule_of(device, half=False)):
        kind = "half precision" if current.half else "float32"
        order = ", ".join(current.order)
        print(f"auto on {device.type} in {kind} takes the first there is of: {order} ({current.source})")
    if arguments.json:
        rows = [
            {
                "shape": one.work.name, "dtype": str(one.work.dtype), "way": one.way, "problem": one.problem,
                "milliseconds": None if one.speed is None else 1e3 * one.speed.seconds, "error": one.error,
            }
            for one in found
        ]  # fmt: skip
        figures = {"machine": describe(), "batch": batch, "seed": arguments.seed, "rule": told, "rows": rows}
        write_output(arguments.json, json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
