"""``foundation quickstart``: the whole road in a few minutes, as the commands that a user would type."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

DESCRIPTION = """\
The main job on a small scale, without a download or an accelerator: build shards from data that a dependency carries
or a generator makes, pretrain a small encoder, score it by nearest neighbours and by linear classifiers beside an
untrained encoder, raw input and the simple features of the modality, and write a report. Each step is an ordinary
command, shown before it runs; what is done already is not done again."""

# For each modality: its data set and its recipe.
ROADS = {
    "image": ("photo_tiles", "quickstart"),
    "audio": ("calls", "quickstart-audio"),
    "points": ("solids", "quickstart-points"),
    "video": ("photo_pans", "quickstart-video"),
    "imu": ("motions", "quickstart-imu"),
}
NAMES = {"model": "trained teacher", "untrained": "the same encoder, untrained", "raw": "raw input"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.ranges import Seed, argument

    parser.add_argument("modality", nargs="?", default="image", choices=sorted(ROADS), help="what to train on")
    parser.add_argument("--out", type=Path, help="folder (default: runs/quickstart, or runs/quickstart-MODALITY)")
    parser.add_argument("--seed", type=argument(Seed), default=0, help="seed of the run (default: 0)")
    parser.add_argument("--fresh", action="store_true", help="train anew although a run is there")


def run(arguments: argparse.Namespace) -> int:
    data, recipe = ROADS[arguments.modality]
    name = "quickstart" if arguments.modality == "image" else f"quickstart-{arguments.modality}"
    out: Path = arguments.out or Path("runs") / name
    shards, folder, start = out / "shards", out / f"run-seed{arguments.seed}", time.perf_counter()
    if not (shards / "index.json").exists():
        command("data", "build", data, str(shards))
    train, test = str(shards / "train-*.tar"), str(shards / "test-*.tar")
    fresh = ["--fresh", "--overwrite"] if arguments.fresh else []
    settings = [f"data.shards=[{train}]", f"seed={arguments.seed}"]
    command("pretrain", recipe, *settings, "--run", str(folder), *fresh)
    probes = folder / "probes"
    splits = ["--train", train, "--test", test, "--baselines"]
    command("knn", str(folder), *splits, "--k", "20", "--json", str(probes / "quickstart-knn.json"))
    # Fewer passes than a probe takes by itself: the raw input has thousands of numbers, and the road ends in minutes.
    command("linear", str(folder), *splits, "--epochs", "50", "--json", str(probes / "quickstart-linear.json"))
    command("report", str(folder))
    show(folder, time.perf_counter() - start)
    return 0


def command(*words: str) -> None:
    """Show a command as the user would type it, and run it."""
    from foundation.cli import main
    from foundation.errors import FoundationError, RequeueRequest

    print(f"\n$ foundation {' '.join(map(shlex.quote, words))}", flush=True)
    code = main(words)
    if code == RequeueRequest.exit_code:
        raise RequeueRequest("stopped; the same command goes on from there")
    if code:
        error = FoundationError(f"'foundation {words[0]}' ended with exit code {code}; its message is above")
        error.exit_code = code
        raise error


def show(folder: Path, seconds: float) -> None:
    """The closing table: trained, untrained, raw, and each simple feature."""
    from rich.console import Console
    from rich.table import Table

    scores: dict[str, dict[str, float]] = {}
    for probe in ("knn", "linear"):
        results = json.loads((folder / "probes" / f"quickstart-{probe}.json").read_text())
        for row in results["results"]:
            scores.setdefault(NAMES.get(row["name"], row["features"]), {})[probe] = row["top1"]
    table = Table(title="accuracy on held-out samples", title_justify="left")
    for column in ("features", "kNN (k = 20)", "linear probe"):
        table.add_column(column, justify="left" if column == "features" else "right")
    for model, values in scores.items():
        table.add_row(model, *(f"{100 * values[p]:.1f} %" if p in values else "" for p in ("knn", "linear")))
    console = Console()
    console.print()
    console.print(table)
    console.print(f"{seconds:.0f} seconds. Report: {folder / 'report.html'}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
