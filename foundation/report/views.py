"""What training saw: the views and masks of the first samples of a run, made again by the code that made them then."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foundation.data.pipeline import Plan
from foundation.data.plans import PlannedBatches
from foundation.data.stream import build_stream, open_sources
from foundation.errors import FoundationError, SampleError, UserError
from foundation.modalities.drawing import photo
from foundation.modalities.parts import part
from foundation.report.images import options_of
from foundation.run import build
from foundation.run.recipe import Recipe
from foundation.types import Batch, TokenMask, View


@dataclass(frozen=True)
class Drawn:
    """One picture of a view.

    Attributes:
        title: ``global 1``, ``local 3``, ``global 2, masked``.
        picture: data URI.
        width: that it wants on the page, CSS pixels; views that see less are smaller.
    """

    title: str
    picture: str
    width: int


@dataclass(frozen=True)
class Seen:
    """One sample as training saw it.

    Attributes:
        name: key of the sample.
        pictures: the whole sample, then its views, each followed by what the student saw where a mask hid some of it.
    """

    name: str
    pictures: tuple[Drawn, ...]


@dataclass(frozen=True)
class Sheet:
    """The first samples of the run.

    Attributes:
        samples: each of them.
        kinds: a line for each kind of views: how many, of what shape, how much of them is masked.
        legend: what axes and colours mean; empty where pictures are as the eye sees them.
        notes: what could not be drawn and why.
        own: whether these are samples that the run saw.
    """

    samples: tuple[Seen, ...]
    kinds: tuple[str, ...]
    legend: str = ""
    own: bool = True
    notes: list[str] = field(default_factory=list)

    @property
    def masked(self) -> bool:
        """Whether a mask hides something of any of them."""
        return any(drawn.title.endswith(_MASKED) for sample in self.samples for drawn in sample.pictures)


_MASKED = ", masked"
_HEIGHT, _NARROW, _WIDE = 112, 52, 320  # CSS pixels of the largest view; least and most width of any


def training_views(recipe: Recipe, samples: int = 4, patterns: Sequence[str] = ()) -> Sheet:
    """Views and masks of the first samples of a run: those of its first step, by its seed.

    Args:
        recipe: resolved, of the run.
        samples: how many; at most one batch.
        patterns: other shards than the recipe's; the samples are then not those that the run saw.

    Raises:
        UserError: there are no shards, or none of their samples can be read.
    """

    recipe = recipe.stage(0)
    data = dataclasses.replace(recipe.data, shards=tuple(patterns), sources={}) if patterns else recipe.data
    # The folder may be someone else's: no program is started, and no folder is written to, because its recipe says so.
    data = dataclasses.replace(data, allow_pipes=False, cache=None)
    if any(pattern.startswith("pipe:") for pattern in data.patterns):
        raise UserError("its shards are the output of a program, which a report does not start")
    sources = open_sources(data)
    clock = recipe.clock(sum(int(shards.num_samples) for shards in sources.values()))
    stream = build_stream(
        data, sources, seed=recipe.seed, global_batch=recipe.train.batch_size, clock=clock,
        tokens=_tokens(recipe, clock) if data.sources and data.weigh_by == "tokens" else None,
    )  # fmt: skip
    pipeline = build.pipeline(recipe, recipe.views.build(), finish_in_worker=True)
    count = min(samples, recipe.train.batch_size)
    plan = Plan(start=0, offset=0, size=count, group=recipe.train.batch_size, step=0)
    batch: Batch | FoundationError = PlannedBatches(stream, pipeline)[plan]
    if isinstance(batch, FoundationError):
        raise batch
    located = stream.locate(plan.positions)
    raws = []
    for row in range(count):
        number = (int(located.sources[row]), int(located.shards[row]), int(located.indices[row]))
        raw = _quietly(lambda number=number: stream.read(*number))  # type: ignore[misc]
        raws.append(raw if raw is not None and raw["__key__"] == batch.keys[row] else None)  # a bad one was replaced
    return _drawn(recipe, batch, raws, own=not patterns)


def _tokens(recipe: Recipe, clock: Any) -> float:
    """Tokens of a sample, as the trainer counts them; no weights are made for it."""

    with torch.device("meta"):
        return build.tokens_per_sample(recipe, build.learner(recipe, clock))


def _quietly(make: Callable[[], Any]) -> Any:

    try:
        return make()
    except SampleError:
        return None


def _drawn(recipe: Recipe, batch: Batch, raws: Sequence[Any], own: bool) -> Sheet:

    notes: list[str] = []
    drawings: dict[str, Any] = {}
    for modality in (recipe.views.modality, *(view.modality for view in batch.views.values())):
        try:
            drawings.setdefault(modality, part(modality, "picture"))
        except UserError:
            notes.append(f"There is no way yet to draw {modality}: its folder has no picture.py.")
    widths = _widths(recipe, batch, drawings)
    read, whole = reading(recipe), drawings.get(recipe.views.modality)
    rows = []
    for row, (key, raw) in enumerate(zip(batch.keys, raws, strict=True)):
        pictures: list[Drawn] = []
        original = None if raw is None or whole is None else _quietly(lambda: whole.of_raw(raw, **read))  # noqa: B023
        if original is not None:
            pictures.append(Drawn("whole sample", photo(np.asarray(original)), _width(original)))
        for name, view in batch.views.items():
            if view.modality in drawings:
                pictures += _views_of(recipe, name, view, first_mask(batch, name), row, drawings, widths[name])
        rows.append(Seen(key, tuple(pictures)))
    legend = str(getattr(whole, "LEGEND", ""))
    return Sheet(tuple(rows), tuple(_kinds(batch)), legend, own, notes)


def reading(recipe: Recipe) -> dict[str, Any]:
    """How a picture file's ``of_raw`` draws a sample as a recipe reads it: its decoder, and the axis that is upwards
    where its views name one."""
    up = {"up": recipe.views.up} if hasattr(recipe.views, "up") else {}
    return {"decode": recipe.decode.build(), **up}


def _views_of(
    recipe: Recipe, name: str, view: View, mask: TokenMask | None, row: int, drawings: Any, width: int
) -> list[Drawn]:
    """The views of one role of one sample, each followed by what a mask leaves of it."""
    drawing, options = drawings[view.modality], _options(recipe, name)
    samples = len(view.data) // view.count
    found = []
    for number in range(view.count):
        place = number * samples + row
        title = f"{name.replace('.', ' ')} {number + 1}" if view.count > 1 else name.replace(".", " ")
        found.append(Drawn(title, photo(drawing.to_rgb(view.data[place], **options)), width))
        if mask is not None and bool(mask.masked[place].any()):
            hidden = _masked(recipe, view, mask.masked[place].numpy(), place, drawing, options)
            if hidden is not None:
                found.append(Drawn(title + _MASKED, photo(hidden), width))
    return found


def _masked(
    recipe: Recipe, view: View, masked: NDArray[np.bool_], row: int, drawing: Any, options: dict[str, Any]
) -> NDArray[np.uint8] | None:
    """The view as the student sees it; None where its tokens lie on no grid that can be drawn."""
    coordinates = np.asarray(recipe.encoder.for_modality(view.modality).coordinates(tuple(view.data.shape[2:])))
    coordinates_of = getattr(recipe.encoder, "coordinates_of", None)
    if coordinates_of is not None and coordinates.shape[1] == 1:  # tokens of this view have only a number
        coordinates = coordinates_of(view.data[row : row + 1])[0]
        upright = {key: value for key, value in options.items() if key == "up"}
        return np.asarray(drawing.mask_overlay(view.data[row], masked, coordinates, **upright))
    grid = tuple(int(side) + 1 for side in coordinates.max(axis=0))
    if math.prod(grid) != len(masked) or len(grid) not in getattr(drawing, "AXES", (2,)):
        return None
    return np.asarray(drawing.mask_overlay(view.data[row], masked, grid, **options))


def _options(recipe: Recipe, name: str) -> dict[str, Any]:
    """What drawing a view needs to know; a view of several modalities is called ``MEMBER.ROLE``."""
    config = getattr(recipe.views, "members", {}).get(name.partition(".")[0], recipe.views)
    return options_of(config.evaluation())


def _widths(recipe: Recipe, batch: Batch, drawings: dict[str, Any]) -> dict[str, int]:
    """Width on the page of each kind of views: those that are shorter along their last axis are narrower."""
    widths: dict[str, int] = {}
    for modality, drawing in drawings.items():
        lengths = {name: view.data.shape[-1] for name, view in batch.views.items() if view.modality == modality}
        if lengths:
            largest = max(lengths, key=lambda name: lengths[name])
            whole = _width(drawing.to_rgb(batch.views[largest].data[0], **_options(recipe, largest)))
            widths |= {name: max(_NARROW, round(whole * lengths[name] / lengths[largest])) for name in lengths}
    return widths


def _width(picture: NDArray[np.uint8]) -> int:
    """Of a picture that is as high as all large ones."""
    return round(min(_WIDE, max(_NARROW, _HEIGHT * picture.shape[1] / picture.shape[0])))


def first_mask(batch: Batch, view: str) -> TokenMask | None:
    """Mask of a view by the first rule of the recipe that hides parts of it; None where none does."""
    return next((mask for (name, _), mask in batch.masks.items() if name == view), None)


def _kinds(batch: Batch) -> list[str]:
    """``2 global views of 3 x 32 x 32; half of them have masked tokens, ...``."""
    lines = []
    for name, view in batch.views.items():
        shape = " × ".join(map(str, view.data.shape[1:]))
        line = f"{view.count} {name.replace('.', ' ')} view{'s' if view.count > 1 else ''} of {shape}"
        mask = first_mask(batch, name)
        if mask is not None and bool(mask.masked.any()):
            share = float(mask.masked.float()[mask.masked.any(dim=1)].mean())
            line += f" (where masked: {100 * share:.0f} % of the tokens)"
        lines.append(line)
    return lines
