"""``foundation linear``: score a frozen encoder by linear classifiers."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path

DESCRIPTION = (
    "Score a frozen encoder by a grid of linear classifiers: learning rates x last 1 or 4 blocks x with or without the "
    "mean patch token, all trained at once. The head to report is chosen on training samples kept back."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.probes import command
    from foundation.ranges import Count, Depth, Positive, argument

    command.add_arguments(parser)
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
    parser.add_argument("--standardise", action="store_true", help="features with mean 0 and deviation 1")
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
    parser.add_argument("--all", action="store_true", help="show every head of the grid")


def run(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from foundation.probes import command, linear
    from foundation.probes.features import depth_of
    from foundation.voice import to_stderr, to_stdout

    begun = time.time()
    job = command.prepare(arguments, needs_test=True)
    settings = linear.Settings(
        learning_rates=tuple(arguments.learning_rates or linear.LEARNING_RATES),
        blocks=tuple(arguments.blocks or _fitting(depth_of(job.loaded.encoder))),
        epochs=10 if arguments.end_to_end and arguments.epochs is None else arguments.epochs,
        batch_size=arguments.head_batch_size,
        standardise=arguments.standardise,
        select_on=arguments.select_on,
        seed=arguments.seed,
    )
    table = Table(title=f"Linear probe, head chosen on {settings.select_on}")
    for name, justify in (("features", "left"), ("head", "left"), ("top-1 %", "right"), ("95 %", "right")):
        table.add_column(name, justify=justify)
    rows, data, grid = [], {}, Table(title="All heads of the model, top-1 %")
    for candidate in job.candidates(simple=not arguments.end_to_end):
        own = settings
        if candidate.name in ("raw", "simple"):  # one vector for each sample: no blocks, no patch tokens
            own = dataclasses.replace(settings, blocks=(1,), pooling=(False,))
        blocks = own.blocks
        train, test = job.splits(candidate, max(blocks))
        augmented = _augmented(job, candidate, max(blocks), train) if arguments.end_to_end else None
        result = linear.fit(
            train, test, own, device=job.device, augmented=augmented, what=f"{candidate.name}: {len(train)} samples"
        )
        heads = [
            {"name": head.name, "learning_rate": head.learning_rate, "blocks": head.blocks, "pooling": head.pooling,
             "validation": None if result.validation is None else result.validation[place], "top1": result.test[place]}
            for place, head in enumerate(result.heads)
        ]  # fmt: skip
        rows.append(
            {"name": candidate.name, "features": candidate.label, "n": len(test), "top1": result.top1,
             "interval": list(result.interval), "head": result.chosen.name, "heads": heads}
        )  # fmt: skip
        if candidate.name == "model":
            command.report_skipped(train, "train")
            command.report_skipped(test, "test")
            data = {"train": command.describe_data(job.train, train), "test": command.describe_data(job.test, test)}
            _fill(grid, heads)
            edges = {"smallest": min(own.learning_rates), "largest": max(own.learning_rates)}
            for edge, rate in edges.items():
                if result.chosen.learning_rate == rate and len(own.learning_rates) > 1:
                    to_stderr(f"the chosen learning rate {rate:g} is the {edge} tried: see --learning-rates")
        table.add_row(candidate.label, result.chosen.name, command.percent(result.top1), command.span(result.interval))
    from foundation.probes.features import plain

    content = {
        "metric": "top1",
        "data": data,
        "settings": {**plain(settings), "end_to_end": arguments.end_to_end, "limit": arguments.limit,
                     "baselines": arguments.baselines},
        "results": rows,
    }  # fmt: skip
    path = command.save(job, "linear", content, begun)
    console = Console()
    if arguments.all:
        console.print(grid)
    console.print(table)
    to_stdout(f"written: {path}")
    return 0


def _fitting(depth: int) -> tuple[int, ...]:
    """The published 1 and 4 last blocks, as far as the encoder is deep."""
    return tuple(sorted({1, min(4, depth)}))


def _fill(grid, heads) -> None:  # type: ignore[no-untyped-def]
    from foundation.probes import command

    for name in ("head", "kept back", "test"):
        grid.add_column(name, justify="left" if name == "head" else "right")
    for head in heads:
        held = "" if head["validation"] is None else command.percent(head["validation"])
        grid.add_row(head["name"], held, command.percent(head["top1"]))


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
