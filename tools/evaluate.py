"""``foundation evaluate``: put a suite of tasks to a frozen encoder, and write one page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DESCRIPTION = """\
Evaluate a frozen encoder by a suite of tasks: nearest neighbours, linear and logistic classifiers, few labels,
retrieval, clustering, rank, what is out of distribution, and more. Every sample is encoded once, and each task chooses
its settings on training samples. Writes result.json, samples.npz (what each test sample adds, for foundation compare)
and index.html, a page that stands by itself."""
EXAMPLES = """\
examples:
  foundation evaluate runs/my                                     the suite of its modality, on the shards of its probes
  foundation evaluate timm:vit_small_patch16_224 --train "d/train-*.tar" --test "d/test-*.tar" --out scores
  foundation evaluate runs/my --tasks knn retrieval knn.k=[5]     two tasks, one with a setting of its own
  foundation evaluate runs/my --out-of-distribution "other/*.tar" is the other data set strange to it?
  foundation evaluate --list                                      all suites and tasks"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation import evaluate_command as command
    from foundation import probe_options as options
    from foundation.cli import SETTINGS

    parser.add_argument("model", metavar="MODEL", nargs="?", help=options.MODEL_HELP)
    parser.add_argument("settings", nargs="*", metavar=SETTINGS, help="settings of tasks, such as knn.k=[5]")
    command.add_arguments(parser)
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="also score the same encoder untrained, the raw input, and simple features of the modality",
    )
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="also draw the top of the page, by Chromium")
    parser.add_argument("--list", action="store_true", help="list suites and tasks, and do nothing else")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where to write (default: evaluations/... in the model's folder)"
    )


def run(arguments: argparse.Namespace) -> int:
    from foundation.errors import UserError
    from foundation.evaluate_command import evaluated, listing
    from foundation.files import replace_file
    from foundation.report.evaluation import render
    from foundation.tasks import table
    from foundation.tasks.results import RESULT, save
    from foundation.voice import to_stdout

    if arguments.list:
        to_stdout(listing())
        return 0
    if arguments.model is None:
        raise UserError("name a model (foundation evaluate --help)")
    found, suite, folder = evaluated(
        arguments, arguments.model, arguments.settings, arguments.out, baselines=arguments.baselines
    )
    table.show(found)
    save(found, suite, folder)
    page = folder / "index.html"
    replace_file(page, render(found, suite).encode())
    to_stdout(f"written: {folder / RESULT}\nwritten: {page}")
    if arguments.picture is not None:
        from foundation.report.screenshot import screenshot

        to_stdout(f"written: {screenshot(page, arguments.picture)}")
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
