"""``foundation svm``: score a frozen encoder by a support vector machine."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

DESCRIPTION = (
    "Score a frozen encoder by a support vector machine on its features: linear (the ModelNet40 protocol of point "
    "cloud encoders; with several costs, the one to report is chosen on training samples kept back), or with --kernel "
    "rbf as time series are (COMODO: features of length 1, standardised, cost by five-fold cross-validation)."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation import probe_options as options
    from foundation.ranges import Positive, argument

    options.add_arguments(parser)
    options.add_pieces(parser)
    parser.add_argument(
        "--kernel", choices=("linear", "rbf"), default="linear", help="of the classifier (default: %(default)s)"
    )
    parser.add_argument(
        "--cost",
        nargs="+",
        type=argument(Positive),
        metavar="C",
        help="of errors (default: 1; with rbf the best of 1e-4 to 1e4)",
    )
    options.add_tokens(parser)
    options.add_treatments(parser)


def run(arguments: argparse.Namespace) -> int:
    from foundation import probe_command as command
    from foundation import probe_options as options
    from foundation.probes import svm, table
    from foundation.probes.digests import plain
    from foundation.voice import to_stdout

    begun = time.time()
    costs = None if arguments.cost is None else tuple(arguments.cost)
    settings = svm.Settings(kernel=arguments.kernel, costs=costs, tokens=arguments.tokens, seed=arguments.seed)
    if arguments.kernel == "rbf" and arguments.treatments is None:
        arguments.treatments = ["standardised"]
    wanted = options.treatments(arguments)
    job = command.prepare(arguments, needs_test=True, least=2)
    rows: list[dict[str, Any]] = []
    looked: dict[str, Any] = {}
    for candidate in job.candidates(simple=True):
        train, test = job.splits(candidate)
        if candidate.name == "model":
            looked = job.look(train, test, arguments.tokens)
        for treatment in wanted:
            result = svm.fit(train, test, dataclasses.replace(settings, treatment=treatment))
            rows.append(
                {"name": candidate.name, "features": candidate.label, "treatment": treatment, "n": len(test),
                 "top1": result.top1, "balanced": result.balanced, "interval": result.interval,
                 "cost": result.cost, "validation": result.validation,
                 **{k: v for k, v in (("top3", result.top3), ("top5", result.top5)) if v is not None}}
            )  # fmt: skip
    content = {
        "metric": "top1",
        **looked,
        "settings": {**plain(settings), "costs": list(settings.chosen), "treatment": list(wanted),
                     "group": arguments.group, "limit": arguments.limit, "pieces": arguments.pieces,
                     "baselines": arguments.baselines},
        "results": rows,
    }  # fmt: skip
    written = command.save(job, "svm", content, begun)
    best = max((row for row in rows if row["name"] == "model"), key=lambda row: row["top1"])
    note = f"Cost of the model's classifier: {best['cost']:g}."
    more = [f"top-{k} {100 * best[f'top{k}']:.1f} %" for k in (3, 5) if f"top{k}" in best]
    note += f" The model's {' and '.join(more)}." if more else ""
    name = "Linear" if arguments.kernel == "linear" else "RBF"
    table.show(f"{name} support vector machine", job.loaded.description, rows, note, looked["data"])
    to_stdout(written)
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
