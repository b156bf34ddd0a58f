"""What the kinds of ``foundation picture`` share: the options, the model and what it looks at, and the files written.

Imported for ``--help``, so nothing heavy stands at the top.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foundation.report.picture_table import PictureTable
    from foundation.zoo.load import LoadedEncoder


def add_model(parser: argparse.ArgumentParser, kinds: str = ".png or .html") -> None:
    """A model, what it looks at, and what is written."""
    from foundation import probe_options as options

    parser.add_argument("model", metavar="MODEL", help=options.MODEL_HELP)
    add_common(parser, kinds)


def add_common(parser: argparse.ArgumentParser, kinds: str) -> None:
    """What every kind of picture of samples takes."""
    from foundation.plugins import add_option
    from foundation.ranges import Rate, Side, argument

    add_option(parser)
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


def add_samples(parser: argparse.ArgumentParser, count: int) -> None:
    """How many samples are drawn, where they are a few."""
    from foundation.ranges import Count, argument

    parser.add_argument(
        "--samples", type=argument(Count), default=count, metavar="N", help="spread evenly (default: %(default)s)"
    )


def begin(
    arguments: argparse.Namespace, kinds: Sequence[str] = (".png", ".html")
) -> tuple[LoadedEncoder, tuple[str, ...], Any]:
    """The model, what it shall look at, and where; refused before long work where nothing could be written."""
    from foundation.probe_command import usable_device
    from foundation.report.looked_at import of_size
    from foundation.zoo.load import load_encoder

    check_out(arguments, kinds)
    device = usable_device(arguments.device)
    loaded = of_size(load_encoder(arguments.model, device, arguments.branch), arguments.size)
    return loaded, _sources(arguments, loaded), device


def check_out(arguments: argparse.Namespace, kinds: Sequence[str]) -> None:
    """Refuse files that could not be written, before long work.

    Raises:
        UserError: an ending that is no picture of this kind, a file that is there, a place that cannot be written.
    """
    from foundation.errors import UserError
    from foundation.files import require_new

    for out in arguments.out:
        if out.suffix.lower() not in kinds:
            raise UserError(f"--out {out}: a picture of this kind ends in {' or '.join(kinds)}")
        require_new(out, arguments.overwrite)


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


@contextmanager
def as_page(path: Path, width: int = 1400, height: int | None = 900) -> Iterator[Path]:
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


def written(table: PictureTable, paths: Sequence[Path]) -> int:
    """Write a table of pictures, and say where."""
    from foundation.report.picture_table import write
    from foundation.voice import to_stdout

    for path in paths:
        to_stdout(f"written: {write(table, path)}")
    return 0
