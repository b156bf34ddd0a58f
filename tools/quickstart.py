"""``foundation quickstart``: from nothing to a report in a few minutes, by the commands that a user would type."""

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
untrained encoder, raw input and simple features made by hand, and write a report. Each step is an ordinary
command, shown before it runs; what is done already is not done again."""

# For each modality: its data set and its recipe.
QUICKSTARTS = {
    "image": ("letters", "quickstart"),
    "audio": ("calls", "quickstart-audio"),
    "points": ("wires", "quickstart-points"),
    "video": ("camera_moves", "quickstart-video"),
    "imu": ("motions", "quickstart-imu"),
}
NAMES = {"model": "trained encoder", "untrained": "the same encoder, untrained"}
COLUMNS = {"knn": "kNN, k = 20", "linear": "linear probe"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.ranges import Seed, argument

    parser.add_argument("modality", nargs="?", default="image", choices=sorted(QUICKSTARTS), help="what to train on")
    parser.add_argument("--out", type=Path, help="folder (default: runs/quickstart, or runs/quickstart-MODALITY)")
    parser.add_argument("--seed", type=argument(Seed), default=0, help="seed of the run (default: 0)")
    parser.add_argument("--fresh", action="store_true", help="train anew although a run is there")


def run(arguments: argparse.Namespace) -> int:
    data, recipe = QUICKSTARTS[arguments.modality]
    name = "quickstart" if arguments.modality == "image" else f"quickstart-{arguments.modality}"
    out: Path = arguments.out or Path("runs") / name
    shards, folder, start = out / "shards", out / f"run-seed{arguments.seed}", time.perf_counter()
    if not already_built(shards, data):
        command("data", "build", data, str(shards))
    train, test = str(shards / "train-*.tar"), str(shards / "test-*.tar")
    fresh = ["--fresh", "--overwrite"] if arguments.fresh else []
    settings = [f"data.shards=[{train}]", f"seed={arguments.seed}"]
    command("pretrain", recipe, *settings, "--run", str(folder), *fresh)
    probes = folder / "probes"
    splits = ["--train", train, "--test", test, "--baselines"]
    command("knn", str(folder), *splits, "--k", "20", "--json", str(probes / "quickstart-knn.json"))
    # Fewer passes than a probe takes by itself: the raw input has thousands of numbers, and all should end in minutes.
    command("linear", str(folder), *splits, "--epochs", "50", "--json", str(probes / "quickstart-linear.json"))
    command("report", str(folder))
    show(folder, time.perf_counter() - start)
    return 0


def already_built(shards: Path, data: str) -> bool:
    """Whether the shards of a data set lie in a folder.

    Raises:
        UserError: other shards lie there, of another data set or of other options than those of today.
    """
    from foundation.data.build import load
    from foundation.data.index import read_index
    from foundation.errors import UserError

    index = read_index(shards)
    if index is None:
        return False
    parser = argparse.ArgumentParser()
    load(data).module.add_arguments(parser)
    wanted = {"dataset": data, **vars(parser.parse_args([]))}
    there = {"dataset": index.about.get("dataset"), **index.about.get("options", {})}
    other = [
        f"{key} is {there[key]!r}, not {value!r}" for key, value in wanted.items() if there.get(key, value) != value
    ]
    if other:
        raise UserError(f"{shards} holds other data than the quickstart's ({', '.join(other)}): choose another --out")
    return True


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
    """The closing table, best treatment of each feature, and what it says in one sentence."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from foundation.printable import cell as named
    from foundation.probes.table import percent, span
    from foundation.report.verdict import Score, scores, verdict

    results = [json.loads((folder / "probes" / f"quickstart-{probe}.json").read_text()) for probe in COLUMNS]
    best = [{(score.name, score.label): score for score in scores(result)} for result in results]
    samples = results[0]["results"][0]["n"]
    table = Table(
        title=f"Accuracy in % on {samples:,} held-out samples (95 % interval), each feature with its best treatment",
        title_justify="left",
        box=box.SIMPLE,
    )
    table.add_column("features")
    for title in COLUMNS.values():
        table.add_column(title, justify="right")

    def cell(score: Score | None) -> str:
        if score is None:
            return ""
        interval = f" ({span(score.interval)})" if score.interval else ""
        return f"{percent(score.value)}{interval}\n{score.treatment}"

    for feature in best[0]:
        name, label = feature
        table.add_row(named(NAMES.get(name, label)), *(cell(scored.get(feature)) for scored in best))
    console = Console()
    console.print()
    console.print(table)
    said = verdict(results)
    if said is not None:
        console.print(said.text, highlight=False)
    console.print(f"{seconds:.0f} seconds. Report: {folder / 'report.html'}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
