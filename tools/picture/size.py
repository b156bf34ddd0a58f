"""``foundation picture size``: accuracy of any models against their parameters or operations."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DESCRIPTION = """\
Draw the accuracy of any models against their size, from what foundation knn, linear, svm and sizes measured.
(foundation sizes scores all sub-networks of one model.)"""
EXAMPLES = """\
examples:
  foundation picture size runs/*/probes/knn-*.json --out size.html
  foundation picture size a.safetensors=a.json b.safetensors=b.json --against parameters flops --out size.png"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.plugins import add_option

    add_option(parser)
    parser.add_argument(
        "results",
        nargs="+",
        metavar="RESULT|MODEL",
        help="result files beside their models (RUN/probes/*.json), models that were scored, or MODEL=RESULT.json",
    )
    parser.add_argument(
        "--against", nargs="+", choices=("parameters", "flops"), default=["parameters"], help="default: parameters"
    )
    parser.add_argument(
        "--out",
        nargs="+",
        type=Path,
        required=True,
        metavar="FILE",
        help=".html, .svg, or .png (needs Chromium or Chrome)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE where it exists")


def run(arguments: argparse.Namespace) -> int:
    from foundation.picture_command import as_page, check_out
    from foundation.report.model_sizes import draw, mixed, scored
    from foundation.voice import to_stderr, to_stdout

    check_out(arguments, (".html", ".svg", ".png"))
    rows = scored(arguments.results)
    for row in rows:
        to_stderr(f"{row.name}: {row.probe} {100 * row.top1:.1f} % by {row.file}")
    if note := mixed(rows):
        to_stderr(f"warning: {note}")
    for path in arguments.out:
        with as_page(path, 1180, None) as page:
            draw(rows, page, arguments.against)
        to_stdout(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
