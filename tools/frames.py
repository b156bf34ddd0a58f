"""``foundation frames``: score a frozen encoder by what it knows of every moment."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

DESCRIPTION = (
    "Score a frozen encoder by linear classifiers of its frames: which events are there in every moment. Samples need "
    "'events' with label, onset and offset in their json, as 'foundation data build speech-digits --strings 4' writes."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation import probe_options as options
    from foundation.ranges import Count, Depth, Positive, Seconds, Side, argument

    options.add_arguments(parser)
    parser.add_argument("--seconds", type=argument(Seconds), help="length of the view; default: the model's")
    parser.add_argument(
        "--blocks", type=argument(Depth), default=1, help="last blocks whose tokens are read (default: %(default)s)"
    )
    parser.add_argument(
        "--epochs", type=argument(Count), default=30, help="passes over the training frames (default: %(default)s)"
    )
    parser.add_argument(
        "--learning-rates", nargs="+", type=argument(Positive), help="of the heads (default: 0.01 to 1)"
    )
    parser.add_argument(
        "--median", type=argument(Side), default=7, help="frames of the smoothing median (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from foundation import probe_command as command
    from foundation.errors import UserError
    from foundation.probes import beforehand, frame_features, frames
    from foundation.probes.digests import plain
    from foundation.probes.features import depth_of
    from foundation.probes.table import percent, span
    from foundation.voice import to_stderr, to_stdout

    begun = time.time()
    job = command.prepare(arguments, needs_test=True, labels=False)
    beforehand.check_each((job.train, job.test), arguments.limit, frame_features.read_events, "'events' in its json")
    if not 1 <= arguments.blocks <= depth_of(job.loaded.encoder):
        raise UserError(f"--blocks must lie between 1 and the encoder's depth {depth_of(job.loaded.encoder)}")
    settings = frames.Settings(
        learning_rates=tuple(arguments.learning_rates or frames.LEARNING_RATES),
        epochs=arguments.epochs,
        median=arguments.median,
        seed=arguments.seed,
    )
    if arguments.seconds is not None and arguments.seconds <= 0:
        raise UserError(f"--seconds must be above 0, got {arguments.seconds:g}")

    def features(candidate: command.Candidate, patterns: tuple[str, ...], what: str) -> frame_features.FrameSet:
        raw = candidate.name == "raw"
        return frame_features.of_shards(
            job.loaded.encoder if raw else candidate.encoder,
            patterns,
            modality=job.loaded.modality,
            evaluation=job.evaluation,
            seconds=arguments.seconds,
            limit=arguments.limit,
            raw=raw,
            blocks=arguments.blocks,
            device=job.device,
            batch_size=arguments.batch_size,
            what=f"{candidate.name}: {what}",
        )

    table = Table(title="Frame-level linear probe, F1 in %")
    for name in ("features", "frames", "95 %", "events", "95 %"):
        table.add_column(name, justify="left" if name == "features" else "right")
    rows, data = [], {}
    for candidate in job.candidates():
        train, test = features(candidate, job.train, "train"), features(candidate, job.test, "test")
        result = frames.fit(train, test, settings, job.device)
        rows.append(
            {"name": candidate.name, "features": candidate.label, "n": len(test), **plain(result),
             "interval": list(result.frame_interval)}
        )  # fmt: skip
        cells = (percent(result.frame_f1), span(result.frame_interval))
        more = (percent(result.event_f1), span(result.event_interval))
        table.add_row(candidate.label, *cells, *more)
        if candidate.name == "model":
            for name, part in (("train", train), ("test", test)):
                command.report_skipped(part, name)  # type: ignore[arg-type]
                if part.unseen:
                    to_stderr(f"{name}: {part.unseen} events lie outside the views and count as missed: see --seconds")
            data = {
                "train": command.describe_data(job.train, train),  # type: ignore[arg-type]
                "test": command.describe_data(job.test, test),  # type: ignore[arg-type]
            }
    content = {
        "metric": "frame_f1",
        "data": data,
        "settings": {**plain(settings), "blocks": arguments.blocks, "seconds": arguments.seconds,
                     "limit": arguments.limit, "baselines": arguments.baselines},
        "results": rows,
    }  # fmt: skip
    written = command.save(job, "frames", content, begun)
    Console().print(table)
    to_stdout(written)
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
