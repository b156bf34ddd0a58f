"""``foundation bench resume``: seconds until the first batch, at the start of an epoch and near its end."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

DESCRIPTION = """\
How long a run that goes on waits for its first batch (16 pictures as DINO's 10 views) at the first position of an epoch
and near its last, each in a fresh process: imports and start of the process, opening the shards, then the loader up to
its first batch. The shards are written once (64-pixel JPEGs, about 2 kB), with index.json and without. For comparison:
reading what was consumed before, as a stream without positions has to."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.files import output_file
    from foundation.ranges import Count, Workers, argument

    parser.add_argument("--shards", type=argument(Count), default=1000, help="shards of the data set (default: 1000)")
    parser.add_argument("--samples", type=argument(Count), default=200, help="samples per shard (default: 200)")
    parser.add_argument("--workers", type=argument(Workers), default=1, help="loader processes (default: 1)")
    parser.add_argument(
        "--rounds", type=argument(Count), default=5, help="fresh processes for each figure (default: 5)"
    )
    parser.add_argument("--folder", type=Path, help="keep the shards there, or use those that are (default: temporary)")
    parser.add_argument("--no-baseline", action="store_true", help="do not read the consumed data")
    parser.add_argument("--json", type=output_file, help="also write the figures there")
    parser.add_argument("--child", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    import tempfile

    if arguments.child:
        print(json.dumps(child(json.loads(arguments.child))))
        return 0
    if arguments.folder:
        return measure(arguments, arguments.folder)
    with tempfile.TemporaryDirectory(prefix="foundation-resume-") as folder:
        return measure(arguments, Path(folder))


def measure(arguments: argparse.Namespace, folder: Path) -> int:
    import statistics

    from rich.console import Console
    from rich.table import Table

    from foundation.files import write_output

    indexed, plain = folder / "with-index", folder / "without-index"
    write(indexed, plain, arguments.shards, arguments.samples)
    total = arguments.shards * arguments.samples
    table = Table(
        title=f"{arguments.shards:,} shards, {total:,} samples, {arguments.workers} workers; medians, seconds"
    )
    beyond = "beyond the process's start"
    names = ("process and imports", "open the shards", "first batch", beyond, "of it processor time")
    for column in ("index", "position", *names):
        table.add_column(column, justify="right")
    figures: dict[str, Any] = {"shards": arguments.shards, "samples": total, "workers": arguments.workers}
    for place in (indexed, plain):
        for position in (0, total - 64):
            rounds = [fresh(place, position, arguments.workers) for _ in range(arguments.rounds)]
            row = {name: statistics.median(times[name] for times in rounds) for name in names}
            row["most"] = max(times[beyond] for times in rounds)
            figures[f"{place.name}, position {position}"] = row
            index = "yes" if place is indexed else "no"
            table.add_row(index, f"{position:,}", *(f"{row[name]:.2f}" for name in names))
    if not arguments.no_baseline:
        seconds = figures["reading_consumed_seconds"] = read_again(indexed, total - 64)
        table.caption = f"reading {total - 64:,} consumed samples again, without decoding: {seconds:.1f} s"
    Console().print(table)
    if arguments.json:
        write_output(arguments.json, json.dumps(figures, indent=2) + "\n")
    return 0


def write(indexed: Path, plain: Path, shards: int, samples: int) -> None:
    """Write the shards, unless they are there; the second folder has the same files without an index."""
    import io
    import os

    import numpy as np
    from PIL import Image

    from foundation.data.shards import write_shards

    if not (indexed / "index.json").exists():
        pictures = []
        for seed in range(32):
            pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
            pictures.append(buffer.getvalue())
        raws = (
            {"__key__": f"s{row:08d}", "jpg": pictures[row % 32], "cls": str(row % 32).encode()}
            for row in range(shards * samples)
        )
        write_shards(raws, indexed, "train", samples_per_shard=samples)
    plain.mkdir(exist_ok=True)
    for file in indexed.glob("*.tar"):
        if not (plain / file.name).exists():
            os.link(file, plain / file.name)


def fresh(folder: Path, position: int, workers: int) -> dict[str, float]:
    """Times of one fresh process."""
    import subprocess
    import time

    facts = {"folder": str(folder), "position": position, "workers": workers, "began": time.time()}
    command = [sys.executable, str(Path(__file__).resolve()), "--child", json.dumps(facts)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def child(facts: dict[str, Any]) -> dict[str, float]:
    """In a fresh process: from its start to the first batch."""
    import os
    import time

    from foundation.data.pipeline import TrainingPipeline
    from foundation.data.shards import open_shards
    from foundation.data.stream import build_loader, single
    from foundation.modalities.image import views
    from foundation.modalities.image.decode import decode

    pipeline = TrainingPipeline(decode=decode, views=views.published("dino").build(False))
    started, spent = time.time(), sum(os.times()[:4])
    shards = open_shards(facts["folder"])
    opened = time.time()
    stream = single(shards, seed=0, window=4096)
    with build_loader(
        stream, pipeline, batch_size=16, global_batch=16, start=facts["position"], workers=facts["workers"]
    ) as loader:
        batch = next(iter(loader))
        arrived = time.time()
    assert len(batch.keys) == 16
    spent = sum(os.times()[:4]) - spent  # after the workers' end, whose time counts from then on
    return {
        "process and imports": started - facts["began"],
        "open the shards": opened - started,
        "first batch": arrived - opened,
        "beyond the process's start": arrived - started,
        "of it processor time": spent,
    }


def read_again(folder: Path, samples: int) -> float:
    """Seconds to read the samples before a position from start to end."""
    import time

    from foundation.data.shards import open_shards

    shards = open_shards(folder)
    began = time.time()
    for number in range(samples):
        shards.read(*shards.locate(number))
    return time.time() - began


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
