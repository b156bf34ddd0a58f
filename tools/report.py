"""``foundation report``: one HTML page about a run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DESCRIPTION = (
    "Write one self-contained HTML page about a run: what its probes say in a sentence, every feature that it was "
    "compared with, the views that training saw, attention, feature maps, nearest neighbours, confusions, curves, "
    "recipe, machine and code. Works on unfinished runs."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.plugins import add_option
    from foundation.ranges import CountOrNone, argument

    add_option(parser)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--out", type=Path, metavar="PAGE", help="the page (default: RUN/report.html)")
    parser.add_argument(
        "--shards", nargs="+", default=(), help="take pictures from these; default: those of the run's recipe"
    )
    parser.add_argument(
        "--samples",
        type=argument(CountOrNone),
        default=6,
        metavar="N",
        help="samples to look at; 0: no pictures (default: %(default)s)",
    )
    parser.add_argument(
        "--picture", type=Path, metavar="PNG", help="also draw the top of the page, by a Chromium that is installed"
    )
    parser.add_argument("--device", default="cpu", help="where the encoder runs (default: %(default)s)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")


def run(arguments: argparse.Namespace) -> int:
    from foundation.errors import UserError
    from foundation.probe_command import usable_device
    from foundation.report.build import write_report
    from foundation.voice import to_stdout

    if arguments.samples < 0:
        raise UserError(f"--samples must be 0 or more, got {arguments.samples}")
    device = usable_device(arguments.device)
    page = write_report(arguments.run, arguments.out, shards=arguments.shards, samples=arguments.samples, device=device)
    to_stdout(f"written: {page} ({page.stat().st_size / 1e6:.1f} MB)")
    if arguments.picture is not None:
        # The picture of the README: foundation report runs/quickstart/run-seed0 --picture docs/images/report.png
        from foundation.report.screenshot import screenshot

        if arguments.picture.suffix.lower() != ".png":
            raise UserError(f"--picture is a PNG: give a name that ends in .png, not {arguments.picture}")
        to_stdout(f"written: {screenshot(page, arguments.picture)}")
    if arguments.open:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
