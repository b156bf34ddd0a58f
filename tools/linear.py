"""``foundation linear``: score a frozen encoder by linear classifiers."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from foundation.probes.candidates import Candidate
    from foundation.probes.linear import LinearResult

DESCRIPTION = (
    "Score a frozen encoder by a grid of linear classifiers: learning rates x last 1 or 4 blocks x with or without the "
    "mean patch token, all trained at once, for the features as they are, standardised and whitened. The head to "
    "report is chosen on training samples kept back."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation import probe_options as options
    from foundation.ranges import Count, Depth, Positive, argument

    options.add_arguments(parser)
    options.add_pieces(parser)
    parser.add_argument(
        "--epochs",
        type=argument(Count),
        help="passes over the training split (default: 50, on a small split until 2,000 steps; end to end 10)",
    )
    parser.add_argument(
        "--head-batch-size", type=argument(Count), default=128, help="samples per step (default: %(default)s)"
    )
    parser.add_argument(
        "--learning-rates", nargs="+", type=argument(Positive), help="for a batch of 256 (default: 1e-5 to 1)"
    )
    parser.add_argument("--blocks", nargs="+", type=argument(Depth), help="numbers of last blocks (default: 1 4)")
    options.add_treatments(parser)
    parser.add_argument(
        "--select-on",
        choices=("validation", "test"),
        default="validation",
        help="where the reported head is chosen; 'test' is optimistic (default: %(default)s)",
    )
    parser.add_argument(
        "--end-to-end",
        action="store_true",
        help="new augmented views (random resized crop, flip) of the training split in every epoch, no cached features",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="train every head of the grid to the end and show them all (default: those that cannot win leave early, "
        "and an eighth of the grid trains to the end)",
    )


def run(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from foundation import probe_command as command
    from foundation import probe_options as options
    from foundation.modalities.parts import views_for_probe
    from foundation.probes import linear, table
    from foundation.probes.digests import plain
    from foundation.probes.features import depth_of
    from foundation.voice import to_stdout

    begun = time.time()
    job = command.prepare(arguments, needs_test=True)
    if arguments.end_to_end:
        views_for_probe(job.loaded.modality, job.evaluation)
    settings = linear.Settings(
        learning_rates=tuple(arguments.learning_rates or linear.LEARNING_RATES),
        blocks=tuple(arguments.blocks or _fitting(depth_of(job.loaded.encoder))),
        epochs=10 if arguments.end_to_end and arguments.epochs is None else arguments.epochs,
        batch_size=arguments.head_batch_size,
        select_on=arguments.select_on,
        seed=arguments.seed,
        prune=not arguments.all,
    )
    wanted = options.treatments(arguments)
    if arguments.end_to_end and arguments.treatments is None:
        wanted = wanted[:1]  # each treatment is a pass over freshly augmented views in every epoch
    rows: list[dict[str, Any]] = []
    looked: dict[str, Any] = {}
    grid = Table(title="All heads of the model, top-1 %")
    for candidate in job.candidates(simple=not arguments.end_to_end):
        own = settings
        if candidate.name in ("raw", "simple"):  # one vector for each sample: no blocks, no patch tokens
            own = dataclasses.replace(settings, blocks=(1,), pooling=(False,))
        train, test = job.splits(candidate, max(own.blocks))
        if candidate.name == "model":
            looked = job.look(train, test, None)
        augmented = _augmented(job, candidate, max(own.blocks), train) if arguments.end_to_end else None
        for treatment in wanted:
            result = linear.fit(
                train,
                test,
                dataclasses.replace(own, treatment=treatment),
                device=job.device,
                augmented=augmented,
                what=f"{candidate.name}, {treatment}: {len(train)} samples",
            )
            row = _row(candidate, treatment, result, len(test))
            rows.append(row)
            if candidate.name == "model" and arguments.all:
                _fill(grid, treatment, row["heads"])
    _edges(rows, settings.learning_rates)
    content = {
        "metric": "top1",
        **looked,
        "settings": {**plain(settings), "treatment": list(wanted), "group": arguments.group,
                     "end_to_end": arguments.end_to_end, "limit": arguments.limit, "pieces": arguments.pieces,
                     "baselines": arguments.baselines},
        "results": rows,
    }  # fmt: skip
    written = command.save(job, "linear", content, begun)
    if arguments.all:
        Console().print(grid)
    best = max((row for row in rows if row["name"] == "model"), key=lambda row: row["top1"])
    title = f"Linear probe, head chosen on {settings.select_on}"
    table.show(title, job.loaded.description, rows, f"Head of the model: {best['head']}.", looked["data"])
    to_stdout(written)
    return 0


def _row(candidate: Candidate, treatment: str, result: LinearResult, samples: int) -> dict[str, Any]:
    """What the result file says of one feature under one treatment."""
    heads = [
        {"name": head.name, "learning_rate": head.learning_rate, "blocks": head.blocks, "pooling": head.pooling,
         "steps": result.steps[index], "validation": None if result.validation is None else result.validation[index],
         "top1": result.test[index]}
        for index, head in enumerate(result.heads)
    ]  # fmt: skip
    return {
        "name": candidate.name, "features": candidate.label, "treatment": treatment, "n": samples, "top1": result.top1,
        "balanced": result.balanced, "interval": result.interval, "head": result.chosen.name,
        "learning_rate": result.chosen.learning_rate, "heads": heads,
    }  # fmt: skip


def _edges(rows: Sequence[dict[str, Any]], rates: Sequence[float]) -> None:
    """Say where the best learning rate of the model may lie beyond those that were tried."""
    from foundation.voice import to_stderr

    if len(rates) < 2:
        return
    for edge, rate in (("smallest", min(rates)), ("largest", max(rates))):
        at = [row["treatment"] for row in rows if row["name"] == "model" and row["learning_rate"] == rate]
        if at:
            to_stderr(f"{', '.join(at)}: the chosen learning rate {rate:g} is the {edge} tried: see --learning-rates")


def _fitting(depth: int) -> tuple[int, ...]:
    """The published 1 and 4 last blocks, as far as the encoder is deep."""
    return tuple(sorted({1, min(4, depth)}))


def _fill(grid: Table, treatment: str, heads: Sequence[dict[str, Any]]) -> None:
    from foundation.probes.table import percent

    if not grid.columns:
        for name in ("treatment", "head", "kept back", "test"):
            grid.add_column(name, justify="left" if name in ("treatment", "head") else "right")
    for head in heads:
        held = "" if head["validation"] is None else percent(head["validation"])
        grid.add_row(treatment, head["name"], held, percent(head["top1"]))


def _augmented(job, candidate, blocks, train):  # type: ignore[no-untyped-def]
    """Features of freshly augmented views for an epoch, restricted to the samples of ``train``."""
    from foundation.parallel.threads import default_workers
    from foundation.probes.road import augmented_features

    a = job.arguments

    def features(epoch: int):  # type: ignore[no-untyped-def]
        return augmented_features(
            candidate.encoder,
            job.train,
            epoch=epoch,
            seed=a.seed,
            modality=job.loaded.modality,
            evaluation=job.evaluation,
            device=job.device,
            blocks=blocks,
            autocast=a.bfloat16,
            batch_size=a.batch_size,
            workers=default_workers() if a.workers is None else a.workers,
            limit=a.limit,
        ).labelled()

    return features


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
