"""``foundation picture attention``: what the class token and each register attends to, by head."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DESCRIPTION = """\
Draw what the class token and each register token attends to: the mean of the heads and every head."""
EXAMPLES = """\
examples:
  foundation picture attention runs/mine --data photos --out attention.html
  foundation picture attention runs/mine --data photos --block 0 --heads 2 --out first.png"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.picture_command import add_model, add_samples
    from foundation.ranges import Block, Count, argument

    add_model(parser)
    add_samples(parser, 4)
    parser.add_argument(
        "--block", type=argument(Block), help="from 0, or from the end: -1 is the last (default: the last)"
    )
    parser.add_argument("--heads", type=argument(Count), help="draw so many single heads (default: all)")


def run(arguments: argparse.Namespace) -> int:
    from foundation.picture_command import begin, written
    from foundation.report.looked_at import samples
    from foundation.report.token_maps import attention_table

    loaded, sources, device = begin(arguments)
    seen = samples(loaded, sources, arguments.samples, arguments.rate)
    return written(attention_table(loaded, seen, device, block=arguments.block, heads=arguments.heads), arguments.out)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
