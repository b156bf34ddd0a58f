"""``foundation picture map``: all samples as points, like ones side by side: a page with pictures, search and zoom."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DESCRIPTION = """\
Draw all samples as points in the plane, near each other where their features are alike: one page that needs nothing
else, with a picture of each sample, its key and label, search, zoom."""
EXAMPLES = """\
examples:
  foundation picture map NAME --data photos --out map.html
  foundation picture map runs/mine --data "data/test-*.tar" --method pca --limit 2000 --out map.html"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation import probe_options as options
    from foundation.picture_command import add_model
    from foundation.ranges import Count, Seed, argument

    add_model(parser, ".html, or .png (needs Chromium or Chrome)")
    options.add_tokens(parser)
    parser.add_argument(
        "--method",
        choices=("tsne", "pca"),
        default="tsne",
        help="t-SNE of the first 50 principal components, or the first two (default: %(default)s)",
    )
    parser.add_argument(
        "--limit",
        type=argument(Count),
        default=5000,
        metavar="N",
        help="samples at most, spread evenly (default: %(default)s)",
    )
    parser.add_argument("--key", metavar="KEY", help="open the page with this sample")
    parser.add_argument("--seed", type=argument(Seed), default=0, help="of t-SNE (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    from foundation.picture_command import as_page, begin
    from foundation.probes.feature_cache import default_cache
    from foundation.report.embedding_map import located, write_map
    from foundation.voice import to_stdout

    loaded, sources, device = begin(arguments)
    there = located(loaded, sources, device=device, limit=arguments.limit, rate=arguments.rate, cache=default_cache())
    for path in arguments.out:
        with as_page(path) as page:
            said = write_map(
                loaded,
                there,
                page,
                method=arguments.method,
                tokens=arguments.tokens,
                seed=arguments.seed,
                key=arguments.key,
            )
        to_stdout(f"written: {path} ({said})")
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
