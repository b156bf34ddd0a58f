"""``foundation picture neighbours``: samples and what is nearest to them, in a model, between two, or two sensors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foundation.report.nearest import Pictured
    from foundation.zoo.load import LoadedEncoder

DESCRIPTION = """\
Draw samples beside their nearest neighbours by cosine: within one model; from one set to another (--gallery); from
one model to another of the same width; or from one sensor to another by a run that compares two (--across)."""
EXAMPLES = """\
examples:
  foundation picture neighbours NAME --data "data/test-*.tar" --out near.png
  foundation picture neighbours runs/comodo --across --data "data/test-*.tar" --out across.png"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation import probe_options as options
    from foundation.picture_command import add_common
    from foundation.ranges import Count, argument

    parser.add_argument("model", metavar="MODEL", help=options.MODEL_HELP)
    parser.add_argument(
        "other", nargs="?", metavar="OTHER", help="model by which the nearest are found, trained to match MODEL"
    )
    options.add_tokens(parser)
    add_common(parser, ".png or .html")
    parser.add_argument("--gallery", nargs="+", metavar="SHARDS", help="look among these (default: --data)")
    parser.add_argument(
        "--across",
        action="store_true",
        help="MODEL is a run that compares two branches: a sample of the one, the nearest of the other",
    )
    parser.add_argument("--back", action="store_true", help="with --across: the other way round")
    parser.add_argument(
        "--draw",
        nargs=2,
        metavar=("ONE", "OTHER"),
        help="with --across: modalities that are drawn (default: the views')",
    )
    parser.add_argument(
        "--samples",
        type=argument(Count),
        default=6,
        metavar="N",
        help="rows, spread over the labels (default: %(default)s)",
    )
    parser.add_argument("--keys", nargs="+", default=(), metavar="KEY", help="samples by their keys, in place of these")
    parser.add_argument("--near", type=argument(Count), default=6, help="nearest of each (default: %(default)s)")
    parser.add_argument(
        "--limit", type=argument(Count), default=20_000, help="samples at most, spread evenly (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    from foundation.errors import UserError
    from foundation.picture_command import begin, written
    from foundation.report.nearest import nearest_table, recall_said

    if arguments.across:
        queries, gallery, said = _across(arguments)
    else:
        if arguments.back or arguments.draw:
            raise UserError("--back and --draw go with --across")
        loaded, sources, device = begin(arguments)
        queries = _embedded(arguments, loaded, sources, device)
        gallery, said = queries, f"By {loaded.description}."
        if arguments.other:
            other = _other(arguments, device)
            gallery = _embedded(arguments, other, tuple(arguments.gallery or sources), device)
            said += f" Nearest by {other.description}."
        elif arguments.gallery:
            gallery = _embedded(arguments, loaded, tuple(arguments.gallery), device)
    about = [said, f"The nearest of {len(gallery.keys):,} by cosine, which stands below them."]
    if (arguments.other and not arguments.gallery) or arguments.across:
        about.append(recall_said(queries, gallery))
    made = nearest_table(
        queries, gallery, rows=arguments.samples, near=arguments.near, keys=arguments.keys, about=about
    )
    return written(made, arguments.out)


def _other(arguments: argparse.Namespace, device: Any) -> LoadedEncoder:
    from foundation.zoo.load import load_encoder

    return load_encoder(arguments.other, device)


def _embedded(arguments: argparse.Namespace, loaded: LoadedEncoder, sources: Sequence[str], device: Any) -> Pictured:
    """Samples with the features that a model gives them."""
    from foundation.modalities.parts import part
    from foundation.probes.feature_cache import default_cache
    from foundation.probes.knn import vectors
    from foundation.report.embedding_map import located
    from foundation.report.nearest import Pictured

    there = located(loaded, sources, device=device, limit=arguments.limit, rate=arguments.rate, cache=default_cache())
    features, modality = there.features, loaded.own[0]
    cell = part(modality, "picture").CELL
    found = vectors(features, arguments.tokens)
    return Pictured(modality, found, there.labels, features.keys, there.picture, features.ids, cell)


def _across(arguments: argparse.Namespace) -> tuple[Pictured, Pictured, str]:
    """Both sides of the pair of branches that a run compares."""
    from foundation.data.shards import open_shards
    from foundation.errors import UserError
    from foundation.jobs.retrieval import caution, embedded, pair_of, said_of
    from foundation.picture_command import check_out
    from foundation.probe_command import usable_device
    from foundation.report.nearest import drawn_by, paired
    from foundation.run.reload import reload
    from foundation.voice import to_stderr

    if arguments.other or arguments.gallery:
        raise UserError("--across takes one run, and looks among --data: leave OTHER and --gallery out")
    check_out(arguments, (".png", ".html"))
    device = usable_device(arguments.device)
    recipe, learner, folder = reload(Path(arguments.model), device)
    pair = pair_of(learner)
    shards = open_shards(list(arguments.data or recipe.data.patterns))
    seen = embedded(recipe, learner, pair, shards, limit=arguments.limit, device=device)
    drawn, decoders = drawn_by(recipe, pair, arguments.draw)
    first, second = seen.rows
    one, two = paired(first, second, seen.labels, seen.ids, drawn, shards, decoders)
    names = [said_of(request, learner.named_branches[request.branch]) for request in pair]
    if arguments.back:
        one, two, names = two, one, names[::-1]
    said = f"{recipe.name}, {folder.name}: from {names[0]} to {names[1]}."
    if note := caution(recipe, learner, pair):
        to_stderr(f"note: {note}")
        said += f" Mind: {note}."
    return one, two, said


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
