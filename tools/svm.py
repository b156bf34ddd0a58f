"""``foundation svm``: score a frozen encoder by a linear support vector machine."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

DESCRIPTION = (
    "Score a frozen encoder by a linear support vector machine on its features (the ModelNet40 protocol of point cloud "
    "encoders). With several costs, the one to report is chosen on training samples kept back."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.probes import command
    from foundation.ranges import Positive, argument

    command.add_arguments(parser)
    parser.add_argument(
        "--cost", nargs="+", type=argument(Positive), default=[1.0], metavar="C", help="of errors (default: 1)"
    )
    command.add_tokens(parser)
    parser.add_argument("--standardise", action="store_true", help="features with mean 0 and deviation 1")


def run(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from foundation.probes import command, svm
    from foundation.probes.features import plain
    from foundation.voice import to_stdout

    begun = time.time()
    settings = svm.Settings(
        costs=tuple(arguments.cost),
        tokens=arguments.tokens,
        standardise=arguments.standardise,
        seed=arguments.seed,
    )
    job = command.prepare(arguments, needs_test=True)
    table = Table(title="Linear support vector machine")
    for name, justify in (("features", "left"), ("cost", "right"), ("top-1 %", "right"), ("95 %", "right")):
        table.add_column(name, justify=justify)
    rows, data = [], {}
    for candidate in job.candidates(simple=True):
        train, test = job.splits(candidate)
        result = svm.fit(train, test, settings)
        if candidate.name == "model":
            command.report_skipped(train, "train")
            command.report_skipped(test, "test")
            data = {"train": command.describe_data(job.train, train), "test": command.describe_data(job.test, test)}
        rows.append(
            {"name": candidate.name, "features": candidate.label, "n": len(test), "top1": result.top1,
             "interval": list(result.interval), "cost": result.cost, "validation": result.validation}
        )  # fmt: skip
        cells = (f"{result.cost:g}", command.percent(result.top1), command.span(result.interval))
        table.add_row(candidate.label, *cells)
    content = {
        "metric": "top1",
        "data": data,
        "settings": {**plain(settings), "limit": arguments.limit, "baselines": arguments.baselines},
        "results": rows,
    }
    path = command.save(job, "svm", content, begun)
    Console().print(table)
    to_stdout(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
