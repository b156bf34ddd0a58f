"""``foundation picture``: see what an encoder sees."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foundation.report.nearest import Pictured
    from foundation.report.picture_table import PictureTable
    from foundation.zoo.load import LoadedEncoder

DESCRIPTION = "See what an encoder sees: feature maps, attention, a map of all samples, neighbours, size and accuracy."
EXAMPLES = """\
examples:
  foundation picture pca runs/mine --data "data/test-*.tar" --out pca.png         feature maps as colours
  foundation picture attention runs/mine --data photos --out attention.html       by head, and by register
  foundation picture map NAME --data photos --out map.html                        like samples side by side
  foundation picture neighbours NAME --data "data/test-*.tar" --out near.png      what is nearest to some samples
  foundation picture size runs/*/probes/knn-*.json --out size.html                accuracy against parameters"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the kinds of pictures."""
    commands = parser.add_subparsers(dest="kind", required=True, metavar="{pca,attention,map,neighbours,size}")
    _add_pca(commands)
    _add_attention(commands)
    _add_map(commands)
    _add_neighbours(commands)
    _add_size(commands)


def _add_pca(commands: Any) -> None:
    pca = commands.add_parser(
        "pca",
        help="the first three principal components of patch tokens as red, green and blue",
        description="Draw samples beside the first three principal components of their patch tokens as red, green and "
        "blue: what has like features has like colours.",
    )
    _add_model(pca)
    _add_samples(pca, 8)
    pca.add_argument(
        "--foreground",
        action="store_true",
        help="split off the background of each sample by its first component; it is black",
    )
    pca.add_argument(
        "--centred",
        action="store_true",
        help="take the mean over all samples off at each place: shows what differs where positions dominate",
    )
    pca.add_argument("--own-basis", action="store_true", help="components of each sample by itself, not of all")


def _add_attention(commands: Any) -> None:
    from foundation.ranges import Block, Count, argument

    attention = commands.add_parser(
        "attention",
        help="what the class token and each register attends to, by head",
        description="Draw what the class token and each register token attends to: the mean of the heads and every "
        "head.",
    )
    _add_model(attention)
    _add_samples(attention, 4)
    attention.add_argument(
        "--block", type=argument(Block), help="from 0, or from the end: -1 is the last (default: the last)"
    )
    attention.add_argument("--heads", type=argument(Count), help="draw so many single heads (default: all)")


def _add_map(commands: Any) -> None:
    from foundation import probe_options as options
    from foundation.ranges import Count, Seed, argument

    chart = commands.add_parser(
        "map",
        help="all samples as points, like ones side by side: a page with pictures, search and zoom",
        description="Draw all samples as points in the plane, near each other where their features are alike: one page "
        "that needs nothing else, with a picture of each sample, its key and label, search, zoom.",
    )
    _add_model(chart, ".html, or .png (needs Chromium or Chrome)")
    options.add_tokens(chart)
    chart.add_argument(
        "--method",
        choices=("tsne", "pca"),
        default="tsne",
        help="t-SNE of the first 50 principal components, or the first two (default: %(default)s)",
    )
    chart.add_argument(
        "--limit",
        type=argument(Count),
        default=5000,
        metavar="N",
        help="samples at most, spread evenly (default: %(default)s)",
    )
    chart.add_argument("--key", metavar="KEY", help="open the page with this sample")
    chart.add_argument("--seed", type=argument(Seed), default=0, help="of t-SNE (default: %(default)s)")


def _add_neighbours(commands: Any) -> None:
    from foundation import probe_options as options
    from foundation.ranges import Count, argument

    near = commands.add_parser(
        "neighbours",
        help="samples and what is nearest to them, in one model, between two, or between two sensors",
        description="Draw samples beside their nearest neighbours by cosine: within one model; from one set to another "
        "(--gallery); from one model to another of the same width; or from one sensor to another by a run that "
        "compares two (--across).",
    )
    near.add_argument("model", metavar="MODEL", help=options.MODEL_HELP)
    near.add_argument(
        "other", nargs="?", metavar="OTHER", help="model by which the nearest are found, trained to match MODEL"
    )
    options.add_tokens(near)
    _add_common(near, ".png or .html")
    near.add_argument("--gallery", nargs="+", metavar="SHARDS", help="look among these (default: --data)")
    near.add_argument(
        "--across",
        action="store_true",
        help="MODEL is a run that compares two branches: a sample of the one, the nearest of the other",
    )
    near.add_argument("--back", action="store_true", help="with --across: the other way round")
    near.add_argument(
        "--draw",
        nargs=2,
        metavar=("ONE", "OTHER"),
        help="with --across: modalities that are drawn (default: the views')",
    )
    near.add_argument(
        "--samples",
        type=argument(Count),
        default=6,
        metavar="N",
        help="rows, spread over the labels (default: %(default)s)",
    )
    near.add_argument("--keys", nargs="+", default=(), metavar="KEY", help="samples by their keys, in place of these")
    near.add_argument("--near", type=argument(Count), default=6, help="nearest of each (default: %(default)s)")
    near.add_argument(
        "--limit", type=argument(Count), default=20_000, help="samples at most, spread evenly (default: %(default)s)"
    )


def _add_size(commands: Any) -> None:
    from foundation.plugins import add_option

    size = commands.add_parser(
        "size",
        help="accuracy of any models against their parameters or operations",
        description="Draw the accuracy of any models against their size, from what foundation knn, linear, svm and "
        "sizes measured. (foundation sizes scores all sub-networks of one model.)",
    )
    add_option(size)
    size.add_argument(
        "results",
        nargs="+",
        metavar="RESULT|MODEL",
        help="result files beside their models (RUN/probes/*.json), models that were scored, or MODEL=RESULT.json",
    )
    size.add_argument(
        "--against", nargs="+", choices=("parameters", "flops"), default=["parameters"], help="default: parameters"
    )
    size.add_argument("--out", nargs="+", type=Path, required=True, metavar="FILE", help=".html, .svg, or .png (needs "
                      "Chromium or Chrome)")  # fmt: skip
    size.add_argument("--overwrite", action="store_true", help="replace FILE where it exists")


def _add_model(parser: argparse.ArgumentParser, kinds: str = ".png or .html") -> None:
    from foundation import probe_options as options
    from foundation.plugins import add_option

    add_option(parser)
    parser.add_argument("model", metavar="MODEL", help=options.MODEL_HELP)
    _add_common(parser, kinds)


def _add_common(parser: argparse.ArgumentParser, kinds: str) -> None:
    from foundation.ranges import Rate, Side, argument

    parser.add_argument("--data", nargs="+", metavar="FILES|SHARDS", help="files, folders of files, or shards "
                        "(default: the shards of the run's recipe)")  # fmt: skip
    parser.add_argument("--out", nargs="+", type=Path, required=True, metavar="FILE", help=f"what to write: {kinds}")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE where it exists")
    parser.add_argument("--branch", help="which encoder of a run (default: the one that it was measured by)")
    parser.add_argument(
        "--size",
        type=argument(Side),
        metavar="PIXELS",
        help="side of the view; default: the model's. Larger: finer maps",
    )
    parser.add_argument(
        "--rate", type=argument(Rate), help="samples, readings or frames per second of files that do not say it"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU where there is one)")


def _add_samples(parser: argparse.ArgumentParser, count: int) -> None:
    from foundation.ranges import Count, argument

    parser.add_argument(
        "--samples", type=argument(Count), default=count, metavar="N", help="spread evenly (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    return {"pca": _pca, "attention": _attention, "map": _map, "neighbours": _neighbours, "size": _size}[
        arguments.kind
    ](arguments)


def _pca(arguments: argparse.Namespace) -> int:
    from foundation.report.looked_at import samples
    from foundation.report.token_maps import pca_table

    loaded, sources, device = _begin(arguments)
    seen = samples(loaded, sources, arguments.samples, arguments.rate)
    made = pca_table(
        loaded,
        seen,
        device,
        only_foreground=arguments.foreground,
        own_basis=arguments.own_basis,
        centred=arguments.centred,
    )
    return _written(made, arguments.out)


def _attention(arguments: argparse.Namespace) -> int:
    from foundation.report.looked_at import samples
    from foundation.report.token_maps import attention_table

    loaded, sources, device = _begin(arguments)
    seen = samples(loaded, sources, arguments.samples, arguments.rate)
    return _written(attention_table(loaded, seen, device, block=arguments.block, heads=arguments.heads), arguments.out)


def _map(arguments: argparse.Namespace) -> int:
    from foundation.probes.feature_cache import default_cache
    from foundation.report.embedding_map import located, write_map
    from foundation.voice import to_stdout

    loaded, sources, device = _begin(arguments)
    there = located(loaded, sources, device=device, limit=arguments.limit, rate=arguments.rate, cache=default_cache())
    for path in arguments.out:
        with _as_page(path) as page:
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


def _neighbours(arguments: argparse.Namespace) -> int:
    from foundation.errors import UserError
    from foundation.report.nearest import nearest_table, recall_said

    if arguments.across:
        queries, gallery, said = _across(arguments)
    else:
        if arguments.back or arguments.draw:
            raise UserError("--back and --draw go with --across")
        loaded, sources, device = _begin(arguments)
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
    return _written(made, arguments.out)


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
    from foundation.jobs.retrieval import embedded, pair_of
    from foundation.modalities.parts import decoder
    from foundation.modalities.shapes import view_shapes
    from foundation.probe_command import usable_device
    from foundation.report.nearest import paired
    from foundation.run.reload import reload

    if arguments.other or arguments.gallery:
        raise UserError("--across takes one run, and looks among --data: leave OTHER and --gallery out")
    _check_out(arguments, (".png", ".html"))
    device = usable_device(arguments.device)
    recipe, learner, folder = reload(Path(arguments.model), device)
    pair = pair_of(learner)
    shards = open_shards(list(arguments.data or recipe.data.patterns))
    seen = embedded(recipe, learner, pair, shards, limit=arguments.limit, device=device)
    shapes, own = view_shapes(recipe.views), recipe.decode.build()
    seen_by = [shapes[request.view].modality for request in pair]
    drawn: tuple[str, str] = tuple(arguments.draw or seen_by)
    decoders = [own if modality in seen_by else decoder(modality) for modality in drawn]
    first, second = seen.rows
    one, two = paired(first, second, seen.labels, seen.ids, drawn, shards, (decoders[0], decoders[1]))
    names = [f"{request.view} by {request.branch}" for request in pair]
    if arguments.back:
        one, two, names = two, one, names[::-1]
    return one, two, f"{recipe.name}, {folder.name}: from {names[0]} to {names[1]}."


def _size(arguments: argparse.Namespace) -> int:
    from foundation.report.model_sizes import draw, scored
    from foundation.voice import to_stdout

    _check_out(arguments, (".html", ".svg", ".png"))
    rows = scored(arguments.results)
    for path in arguments.out:
        with _as_page(path, 1180, 640) as page:
            draw(rows, page, arguments.against)
        to_stdout(f"written: {path}")
    return 0


@contextmanager
def _as_page(path: Path, width: int = 1400, height: int = 900) -> Iterator[Path]:
    """Where to write a page: there, or where a browser draws it from, if a picture is wanted."""
    import tempfile

    from foundation.report.screenshot import screenshot

    if path.suffix.lower() != ".png":
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        yield page
        screenshot(page, path, width, height)


def _begin(
    arguments: argparse.Namespace, kinds: Sequence[str] = (".png", ".html")
) -> tuple[LoadedEncoder, tuple[str, ...], Any]:
    """The model, what it shall look at, and where; refused before long work where nothing could be written."""
    from foundation.probe_command import usable_device
    from foundation.report.looked_at import of_size
    from foundation.zoo.load import load_encoder

    _check_out(arguments, kinds)
    device = usable_device(arguments.device)
    loaded = of_size(load_encoder(arguments.model, device, arguments.branch), arguments.size)
    return loaded, _sources(arguments, loaded), device


def _check_out(arguments: argparse.Namespace, kinds: Sequence[str]) -> None:
    from foundation.errors import UserError
    from foundation.files import require_writable

    for out in arguments.out:
        if out.suffix.lower() not in kinds:
            raise UserError(f"--out {out}: a picture of this kind ends in {' or '.join(kinds)}")
        require_writable(out)
        if out.exists() and not arguments.overwrite:
            raise UserError(f"{out} exists: choose another name, or add --overwrite")


def _sources(arguments: argparse.Namespace, loaded: LoadedEncoder) -> tuple[str, ...]:
    """What ``--data`` names, else test shards of the run's recipe, else what it was trained on."""
    from foundation.errors import UserError
    from foundation.run.model_recipe import recipe_of

    if arguments.data:
        return tuple(arguments.data)
    recipe = recipe_of(loaded)
    if recipe is not None:
        for probe in recipe.probes:
            if getattr(probe, "test", ()):
                return tuple(probe.test)
        if recipe.data.patterns:
            return tuple(recipe.data.patterns)
    raise UserError("nothing to look at: give --data FILES or SHARDS (this model does not say what it was trained on)")


def _written(table: PictureTable, paths: Sequence[Path]) -> int:
    from foundation.report.picture_table import write
    from foundation.voice import to_stdout

    for path in paths:
        to_stdout(f"written: {write(table, path)}")
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
