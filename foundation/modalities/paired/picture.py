"""How a person looks at a sample of several modalities: each as its own modality draws it, one below the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.data import members
from foundation.errors import SampleError, UserError
from foundation.modalities.drawing import Picture, heat_rgb, pca_rgb, resize
from foundation.modalities.imu.decode import EXTENSIONS
from foundation.modalities.parts import part
from foundation.types import Sample, View

__all__ = ["heat_rgb", "pca_rgb", "to_rgb", "together"]

LEGEND = "Each modality as it is usually drawn; time runs to the right."
"""What the axes and colours of its pictures mean, for a person."""
CELL = (192, 192)
"""Width and height of a sample on a contact sheet, pixels."""
_GAP = 6


_MODALITIES = ("video", "image", "audio", "imu", "points")


def of_raw(raw: Mapping[str, Any], decode: Callable[[Any], Sample] | None = None) -> Picture:
    """A sample of a shard as a person looks at it: whatever modalities can be read from it, one below the other.

    Args:
        raw: members by extension.
        decode: reads it, as a recipe's views say; None: each modality with its defaults.

    Returns:
        uint8 [H, W, 3], of any size.

    Raises:
        SampleError: none of them can be read.
    """

    if decode is not None:
        return of_sample(decode(raw))
    parts: list[Picture] = []
    problem: SampleError | None = None
    left = dict(raw)
    for modality in _MODALITIES:
        try:
            parts.append(_picture_of(modality).of_raw(left))
        except SampleError as error:
            problem = problem or error
        else:
            if modality == "imu":  # an array of readings could be taken for a cloud as well
                left.pop(str(members.find(left, EXTENSIONS)), None)
    if not parts:
        assert problem is not None
        raise problem
    return _stacked(parts, 256)


def of_sample(sample: Sample) -> Picture:
    """The modalities of a decoded sample, one below the other."""
    return _stacked([_picture_of(name).of_sample(sample) for name in _MODALITIES if name in sample], 256)


def to_rgb(view: Tensor | NDArray[Any], **options: Any) -> Picture:
    """One view as its modality draws it, told by its axes.

    Args:
        view: [3, T, H, W] a clip; [C, T] readings; [1, mels, frames] sound; [3, H, W] an image.
        options: of that modality's ``to_rgb``.

    Raises:
        ValueError: other axes.
    """
    shape = tuple(torch.as_tensor(view).shape)
    kind = {4: "video", 2: "imu"}.get(len(shape)) or ("audio" if len(shape) == 3 and shape[0] == 1 else "image")
    drawn: Picture = _picture_of(kind).to_rgb(view, **options)
    return drawn


def together(views: Mapping[str, View], row: int, width: int = 512) -> Picture:
    """What all modalities show of one row of a batch: the same span of time, from left to right.

    Args:
        views: by name, all with this row.
        row: number of the row.
        width: of the picture, pixels.

    Returns:
        uint8 [H, width, 3].
    """
    return _stacked([to_rgb(view.data[row]) for view in views.values()], width)


def _stacked(pictures: Sequence[Picture], width: int) -> Picture:
    parts = []
    for picture in pictures:
        parts.append(resize(picture, max(1, round(picture.shape[0] * width / picture.shape[1])), width))
        parts.append(np.full((_GAP, width, 3), 255, np.uint8))
    return np.ascontiguousarray(np.concatenate(parts[:-1]))


def _picture_of(modality: str) -> Any:
    try:
        return part(modality, "picture")
    except UserError as error:
        raise ValueError(str(error)) from error
