"""``foundation bench linear``: the linear probe's grid of heads, against one head after the other and scikit-learn."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foundation.probes.features import FeatureSet

DESCRIPTION = """\
Processor seconds of the linear probe as it is shipped: 64 heads (16 learning rates, the last 1 or 4 blocks, with and
without the mean patch token) trained at once, those that cannot win leaving early. Beside it: all heads to the end; one
head after the other (one of each of the four kinds is timed, and counts 16 times); and one head of scikit-learn's
logistic regression by L-BFGS on the four class tokens. Features are drawn: four class tokens and a mean patch token of
10 classes."""

CASES = {"10000x384": (10_000, 384), "6000x768": (6_000, 768)}
"""Training samples and width of a token; four tokens of 768 are 3,072 numbers."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.files import output_file
    from foundation.ranges import Count, PositiveShare, Seed, argument

    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), help="which (default: all)")
    parser.add_argument(
        "--scale", type=argument(PositiveShare), default=1.0, help="share of the samples (default: %(default)s)"
    )
    parser.add_argument("--threads", type=argument(Count), default=1, help="of each (default: %(default)s)")
    parser.add_argument("--seed", type=argument(Seed), default=0, help="of the features (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="leave out all heads to the end, and one after the other")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="also write the figures there")


def run(arguments: argparse.Namespace) -> int:
    import torch
    from rich.console import Console
    from rich.table import Table

    from foundation.files import write_output
    from foundation.parallel.placement import processor
    from foundation.voice import to_stdout

    torch.set_num_threads(arguments.threads)
    table = Table(title=f"processor seconds, {arguments.threads} thread{'s' if arguments.threads > 1 else ''}")
    for name in ("features", "what", "seconds", "top-1 %"):
        table.add_column(name, justify="left" if name in ("features", "what") else "right")
    figures: dict[str, Any] = {"machine": processor(), "seed": arguments.seed, "cases": {}}
    for case in arguments.cases:
        samples, width = CASES[case]
        rows = _measured(round(samples * arguments.scale), width, arguments)
        figures["cases"][case] = rows
        for what, (seconds, top1) in rows.items():
            table.add_row(case, what, f"{seconds:.1f}", f"{100 * top1:.1f}")
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    to_stdout(processor())
    if arguments.json is not None:
        write_output(arguments.json, json.dumps(figures, indent=1) + "\n")
    return 0


def _measured(samples: int, width: int, arguments: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Processor seconds and accuracy of each way."""
    import torch
    from sklearn.linear_model import LogisticRegression

    from foundation.probes.linear import Settings, fit
    from foundation.voice import to_stderr

    draw = torch.Generator().manual_seed(arguments.seed)
    train, test = (_features(count, width, draw) for count in (samples, max(50, samples // 3)))
    whole = Settings()

    def timed(what: str, work: Callable[[], float]) -> tuple[float, float]:
        to_stderr(f"{samples:,} x {width}: {what}")
        begun = time.process_time()
        top1 = work()
        return time.process_time() - begun, top1

    def of_scikit_learn() -> float:
        x, queries = (torch.cat(part.cls, dim=1).numpy() for part in (train, test))
        fitted = LogisticRegression(max_iter=1000).fit(x, train.labels.numpy())
        return float(fitted.score(queries, test.labels.numpy()))

    found = {"64 heads at once": timed("64 heads at once", lambda: fit(train, test, whole).top1)}
    if not arguments.quick:
        every = "64 heads at once, all to the end"
        found[every] = timed(every, lambda: fit(train, test, replace(whole, prune=False)).top1)
        seconds, best = 0.0, 0.0
        for blocks in whole.blocks:
            for pooling in whole.pooling:
                one = replace(whole, blocks=(blocks,), pooling=(pooling,), learning_rates=(0.1,), prune=False)
                spent, top1 = timed("one head", lambda one=one: fit(train, test, one).top1)  # type: ignore[misc]
                seconds, best = seconds + spent * len(whole.learning_rates), max(best, top1)
        found["64 heads, one after the other"] = seconds, best
    found["scikit-learn, one head"] = timed("scikit-learn", of_scikit_learn)
    return found


def _features(count: int, width: int, draw: Any) -> FeatureSet:
    """Four class tokens and a mean patch token that say something of ten classes, but not all."""
    import torch

    from foundation.probes.features import FeatureSet

    labels, hidden = torch.randint(10, (count,), generator=draw), torch.randn(count, 64, generator=draw)
    tokens = []
    for token in range(5):
        mix = torch.randn(64, width, generator=torch.Generator().manual_seed(token))
        centres = torch.randn(10, width, generator=torch.Generator().manual_seed(50 + token))
        noise = torch.randn(count, width, generator=draw)
        tokens.append(0.25 * hidden @ mix / 8**0.5 + 0.15 * centres[labels] + 0.5 * noise)
    return FeatureSet(tuple(tokens[:4]), tokens[4], labels, tuple(map(str, range(count))))


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
