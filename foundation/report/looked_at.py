"""Samples that a person looks at through an encoder: their views, names and labels, and how their tokens are drawn."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.data.tally import Tally
from foundation.errors import UserError
from foundation.modalities import drawing
from foundation.modalities.drawing import Picture
from foundation.modalities.parts import decoder, part
from foundation.probes.inputs import file_batches, find_files
from foundation.probes.road import loader, open_limited
from foundation.report.images import options_of, unit_range
from foundation.zoo.load import LoadedEncoder
from foundation.zoo.preprocess import Preprocess


@dataclass(frozen=True)
class Looked:
    """A sample that is looked at.

    Attributes:
        key: of the sample, or the path of its file.
        label: its class by name; empty where it has none.
        view: [...] the evaluation view, as the encoder takes it.
    """

    key: str
    label: str
    view: Tensor


def label_name(label: int, name: Any, classes: Sequence[str]) -> str:
    """A label for a person.

    Args:
        label: class number, -1 for none.
        name: the label as the sample has it, where that is no number.
        classes: names of the class numbers.
    """
    if label >= 0:
        return classes[label] if label < len(classes) else f"class {label}"
    return "" if name is None else ", ".join(map(str, name)) if isinstance(name, list) else str(name)


def samples(loaded: LoadedEncoder, sources: Sequence[str], count: int, rate: float | None = None) -> list[Looked]:
    """Some samples, spread evenly.

    Args:
        loaded: the model that shall look at them.
        sources: files, folders of files, or shards.
        count: of samples, at most.
        rate: samples, readings or frames per second of files that do not say it.

    Raises:
        UserError: nothing is there, or no sample can be read.
    """
    preprocess = Preprocess(loaded.modality, loaded.evaluation)
    files = find_files(sources, preprocess, Tally())
    classes: Sequence[str] = ()
    if files is None:
        classes = open_limited(sources, None).classes
        decode, views = decoder(loaded.modality, loaded.evaluation), loaded.evaluation.build()
        batches: Iterable[Any] = loader(sources, decode, views, 16, 0, count)
    else:
        files = _spread(files, count)
        batches = file_batches(files, preprocess, rate, 16)
    found, problems = [], []
    for batch in batches:
        problems += batch.messages
        for row, key in enumerate(batch.keys):
            number = int(batch.ids[row])
            name = batch.names[row] if batch.names else None
            label = label_name(int(batch.labels[row]), None if isinstance(name, int) else name, classes)
            found.append(Looked(str(files[number]) if files else key, label, batch.data[row]))
    if not found:
        raise UserError(
            f"no sample of {' '.join(sources)} can be read" + "".join(f"\n  {line}" for line in problems[:3])
        )
    return found


def of_size(loaded: LoadedEncoder, size: int | None) -> LoadedEncoder:
    """The model with views of another side: more and finer tokens, where its positions can be interpolated.

    Raises:
        UserError: its views have no side.
    """
    from foundation.modalities.parts import evaluation_config

    return dataclasses.replace(loaded, evaluation=evaluation_config(loaded.modality, loaded.evaluation, size))


def _spread(files: Sequence[Path], count: int) -> list[Path]:
    return [files[number * len(files) // count] for number in range(count)] if count < len(files) else list(files)


class Painter:
    """Draws what is known of the tokens of views: on their grid, or where the tokens lie in space.

    Args:
        loaded: the encoder that made the tokens.

    Raises:
        UserError: the modality has no pictures.
    """

    def __init__(self, loaded: LoadedEncoder) -> None:
        self.modality, evaluation = loaded.own
        self.drawing = part(self.modality, "picture")
        self.config = loaded.config
        self.free = loaded.config.coordinates_of is not None
        options = options_of(evaluation)
        self.upright = {key: value for key, value in options.items() if key == "up"}
        self.options = options

    @property
    def legend(self) -> str:
        """What axes and colours of the pictures mean; empty where they are as the eye sees them."""
        return str(vars(self.drawing).get("LEGEND", ""))

    @property
    def with_sample(self) -> bool:
        """Whether pictures of colours hold the sample as well."""
        return bool(vars(self.drawing).get("COLOURS_UNDER_SAMPLE", False))

    @property
    def sharp(self) -> bool:
        """Whether pictures of colours are squares, which must stay as they are at any size."""
        return not self.free and not self.with_sample

    @property
    def smooth(self) -> bool:
        """Whether maps of numbers are laid over the sample."""
        return self.free or bool(vars(self.drawing).get("MAPS_ON_SAMPLES", False))

    def sample(self, view: Tensor) -> Picture:
        """The view itself, uint8 [H, W, 3]."""
        return np.asarray(self.drawing.to_rgb(view, **self.options), np.uint8)

    def grid(self, view: Tensor) -> tuple[int, ...]:
        """Tokens along each axis of a view; of tokens that lie on no grid their number."""
        if self.free:
            return (len(self.config.coordinates_of(view[None])[0]),)
        coordinates = np.asarray(self.config.coordinates(tuple(view.shape[1:])))
        return tuple(int(side) + 1 for side in coordinates.max(axis=0))

    def check(self, view: Tensor, tokens: int) -> None:
        """Refuse an encoder whose tokens do not fill a grid.

        Raises:
            UserError: it has none for each place.
        """
        expected = math.prod(self.grid(view))
        if tokens != expected:
            raise UserError(
                f"this encoder gives {tokens} patch tokens for a grid of {expected} places: there is no map to draw"
            )

    def edge(self, view: Tensor) -> Tensor | None:
        """[N] bool, tokens at the edge of their grid, in space; None where they lie on no grid of rows and columns."""
        grid = self.grid(view)
        if self.free or len(grid) < 2 or min(grid[-2:]) < 3:
            return None
        inside = torch.zeros(grid, dtype=torch.bool)
        inside[..., 1:-1, 1:-1] = True
        return ~inside.reshape(-1)

    def colours(self, view: Tensor, colours: NDArray[np.uint8]) -> Picture:
        """Colours [N, 3] uint8 of a view's tokens."""
        if self.free:
            drawn = self.drawing.overlay(view, colours, self.config.coordinates_of(view[None])[0], **self.upright)
        else:
            drawn = self.drawing.coloured(view, colours.reshape(*self.grid(view), 3), **self.options)
        return np.asarray(drawn, np.uint8)

    def heat(self, view: Tensor, values: NDArray[np.floating]) -> Picture:
        """Numbers [N] of a view's tokens, such as attention; the brightest half percent is cut."""
        heat = unit_range(values, 0, 99.5)
        if self.free:
            drawn = self.drawing.overlay(view, heat, self.config.coordinates_of(view[None])[0], **self.upright)
        elif self.smooth:
            drawn = self.drawing.overlay(view, heat.reshape(self.grid(view)), **self.options)
        else:
            colours = drawing.heat_rgb(heat.reshape(1, -1), 0.0, 1.0)[0]
            drawn = self.drawing.coloured(view, colours.reshape(*self.grid(view), 3), **self.options)
        return np.asarray(drawn, np.uint8)
