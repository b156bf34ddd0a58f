"""From a run folder to the written page: loads the encoder and the data where they are, and says so where not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foundation import config
from foundation.errors import FoundationError, UserError
from foundation.files import replace_file
from foundation.report.page import render
from foundation.report.pictures import Gallery, gallery
from foundation.report.run import Run, read_run
from foundation.report.views import Sheet, training_views
from foundation.run.model_recipe import recipe_of
from foundation.run.recipe import Recipe
from foundation.zoo.load import load_encoder


def write_report(
    folder: Path,
    out: Path | None = None,
    *,
    shards: Sequence[str] = (),
    samples: int = 6,
    device: Any = "cpu",
) -> Path:
    """Write the page about a run.

    Args:
        folder: of the run; any part of it may be missing.
        out: the page; None: ``report.html`` in the run folder.
        shards: to take pictures from; empty: those of the run's probes, else of its training.
        samples: to show attention and feature maps of.
        device: where the encoder runs.

    Returns:
        Path of the page.

    Raises:
        UserError: the folder is no run, the given shards cannot be read, or the page cannot be written.
    """

    run = read_run(folder)
    pictures, problem, parameters = _pictures(run, shards, samples, device)
    views, no_views = _views(run, shards, samples)
    text = render(run, pictures, problem, parameters, views, no_views)
    out = out or folder / "report.html"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_file(out, text.encode())
    except OSError as error:
        raise UserError(f"cannot write {out}: {error}") from error
    return out


def _pictures(
    run: Run, shards: Sequence[str], samples: int, device: Any
) -> tuple[Gallery | None, str | None, int | None]:

    try:
        loaded = load_encoder(run.path, device)
    except FoundationError as error:
        return None, str(error), None
    parameters = sum(parameter.numel() for parameter in loaded.encoder.parameters())
    if samples < 1:
        return None, "none were asked for", parameters
    patterns = tuple(shards) or _own_shards(recipe_of(loaded))
    if not patterns:
        return None, "no data: name shards with --shards", parameters
    try:
        made = gallery(loaded, patterns, samples=samples, device=device, cache=run.path / "probes" / "cache")
    except FoundationError as error:
        if shards:
            raise
        return None, f"{error}; name other shards with --shards", parameters
    return made, None, parameters


def _views(run: Run, shards: Sequence[str], samples: int) -> tuple[Sheet | None, str | None]:
    """What training saw, or why it cannot be shown; neither where nothing was asked for or no recipe is there."""

    if samples < 1 or not run.recipe:
        return None, None
    try:
        recipe = config.load(Recipe, run.recipe, name=str(run.path / "recipe.yaml"))
        return training_views(recipe, samples=min(samples, _MOST_VIEWS), patterns=shards), None
    except FoundationError as error:
        return None, f"{error}" if shards else f"{error}; name other shards with --shards"


_MOST_VIEWS = 4  # samples: each has many pictures


def _own_shards(recipe: Any) -> tuple[str, ...]:
    if recipe is None:
        return ()
    for probe in recipe.probes:
        for name in ("test", "train"):
            if getattr(probe, name, ()):
                return tuple(getattr(probe, name))
    return tuple(recipe.data.patterns)
