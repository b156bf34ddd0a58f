"""``foundation picture pca``: the first three principal components of patch tokens as red, green and blue."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DESCRIPTION = """\
Draw samples beside the first three principal components of their patch tokens as red, green and blue: what has like
features has like colours."""
EXAMPLES = """\
examples:
  foundation picture pca runs/mine --data "data/test-*.tar" --out pca.png
  foundation picture pca NAME --data photos --size 448 --foreground --out finer.html"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.picture_command import add_model, add_samples

    add_model(parser)
    add_samples(parser, 8)
    parser.add_argument(
        "--foreground",
        action="store_true",
        help="split off the background of each sample by its first component; it is black",
    )
    parser.add_argument(
        "--centred",
        action="store_true",
        help="take the mean over all samples off at each place: shows what differs where positions dominate",
    )
    parser.add_argument("--own-basis", action="store_true", help="components of each sample by itself, not of all")


def run(arguments: argparse.Namespace) -> int:
    from foundation.picture_command import begin, written
    from foundation.report.looked_at import samples
    from foundation.report.token_maps import pca_table

    loaded, sources, device = begin(arguments)
    seen = samples(loaded, sources, arguments.samples, arguments.rate)
    made = pca_table(
        loaded,
        seen,
        device,
        only_foreground=arguments.foreground,
        own_basis=arguments.own_basis,
        centred=arguments.centred,
    )
    return written(made, arguments.out)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
