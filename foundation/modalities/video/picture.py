"""How a person looks at a video and at what an encoder makes of it: a film strip, its frames side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from foundation.modalities import drawing
from foundation.modalities.drawing import Picture
from foundation.modalities.image import picture as still
from foundation.modalities.image.evaluation import IMAGENET_MEAN, IMAGENET_STD
from foundation.modalities.video.decode import decode as by_default
from foundation.types import Sample

__all__ = ["coloured", "film_strip", "heat_rgb", "mask_overlay", "overlay", "pca_rgb", "to_rgb"]

AXES = (3,)
"""Axes of the token grids that :func:`heat_rgb` and :func:`pca_rgb` draw: time, row, column."""
MOST_FRAMES = 8
"""Frames of a strip; of longer clips evenly chosen ones are shown."""
COLUMNS = 4
"""Frames in a line of a strip, and times in a line of a map of tokens."""
MAPS_ON_SAMPLES = True
"""Reports draw maps of numbers over the sample."""
LEGEND = "Frames in the order of time, from left to right and then down."
"""What the axes and colours of its pictures mean, for a person."""
CELL = (256, 128)
"""Width and height of a sample on a contact sheet, pixels."""
_GAP, _EDGE = 2, (32, 32, 36)


def of_raw(raw: Mapping[str, Any], decode: Callable[[Any], Sample] | None = None) -> Picture:
    """A sample of a shard as a person looks at it: a film strip.

    Args:
        raw: members by extension.
        decode: reads it, as a recipe's views say; None: the decoder with its defaults.

    Returns:
        uint8 [H, W, 3], of any size.

    Raises:
        SampleError: it cannot be read.
    """

    return of_sample((decode or by_default)(raw))


def of_sample(sample: Sample) -> Picture:
    """A decoded sample as :func:`of_raw` draws it."""
    return to_rgb(sample["video"])


def to_rgb(
    clip: Tensor | NDArray[np.uint8],
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    most: int = MOST_FRAMES,
) -> Picture:
    """A film strip to look at.

    Args:
        clip: a normalised view, float [3, T, H, W]; or decoded frames, uint8 [T, 3, H, W].
        mean: of the normalisation, per channel.
        std: of the normalisation, per channel.
        most: frames to show.

    Returns:
        uint8 [H', W', 3], see :func:`film_strip`.

    Raises:
        ValueError: another number of axes or channels.
    """
    return film_strip(_frames(clip, mean, std, most))


def film_strip(frames: Sequence[Picture], columns: int = COLUMNS) -> Picture:
    """Frames in the order of time, from left to right and then down, dark lines between them.

    Args:
        frames: [H, W, 3] uint8, all of one size.
        columns: frames in a line.
    """
    height, width = frames[0].shape[:2]
    columns = min(columns, len(frames))
    lines = -(-len(frames) // columns)
    strip = np.empty((lines * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), np.uint8)
    strip[:] = _EDGE
    for number, frame in enumerate(frames):
        top, left = number // columns * (height + _GAP), number % columns * (width + _GAP)
        strip[top : top + height, left : left + width] = frame
    return strip


def heat_rgb(heat: Tensor | NDArray[Any], low: float | None = None, high: float | None = None) -> Picture:
    """Colours of a map of numbers: dark is low, bright is high.

    Args:
        heat: [t, h, w]; or [h, w], one moment.
        low: value shown darkest; by default the smallest.
        high: value shown brightest; by default the largest.

    Returns:
        uint8 [lines h, columns w, 3]: the maps of all times as in a film strip, but without lines between them, as one
        pixel is one token.
    """
    values = torch.as_tensor(heat).detach().cpu().float()
    if values.ndim == 2:
        return drawing.heat_rgb(values, low, high)
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    return _side_by_side(np.stack([drawing.heat_rgb(moment, low, high) for moment in values]))


def overlay(
    clip: Tensor | NDArray[np.uint8], heat: Tensor | NDArray[Any], strength: float = 0.6, **options: Any
) -> Picture:
    """A strip with a map of numbers over it.

    Args:
        clip: see :func:`to_rgb`.
        heat: [t, h, w], usually the token grid.
        strength: share of the map in the mixture.
        options: of :func:`to_rgb`.
    """
    values = torch.as_tensor(heat).float().cpu()
    low, high = float(values.min()), float(values.max())
    frames = _frames(clip, **_normalisation(options))
    parts = []
    for number, frame in zip(_chosen(len(frames), len(values)), frames, strict=True):
        colours = drawing.resize(heat_rgb(values[number], low, high), frame.shape[0], frame.shape[1])
        mixed = (1.0 - strength) * frame.astype(np.float64) + strength * colours
        parts.append(mixed.round().clip(0, 255).astype(np.uint8))
    return film_strip(parts)


def mask_overlay(
    clip: Tensor | NDArray[np.uint8], masked: Tensor | NDArray[np.bool_], grid: tuple[int, ...], **options: Any
) -> Picture:
    """Which tubelets a mask hides.

    Args:
        clip: see :func:`to_rgb`.
        masked: [N] bool, time slowest.
        grid: tubelets in time, down and across.
        options: of :func:`to_rgb`.
    """
    hidden = torch.as_tensor(masked).cpu().reshape(grid)
    frames = _frames(clip, **_normalisation(options))
    chosen = _chosen(len(frames), grid[0])
    return film_strip(
        [
            still.mask_overlay(frame, hidden[number].reshape(-1), (grid[1], grid[2]))
            for number, frame in zip(chosen, frames, strict=True)
        ]
    )


def pca_rgb(patches: Tensor, grid: tuple[int, ...]) -> Picture:
    """The three main directions of tubelet features as colours, one strip for each clip.

    Args:
        patches: [n, N, D] with N = product of the grid.
        grid: tubelets in time, down and across.

    Returns:
        uint8 [n, lines h, columns w, 3], see :func:`heat_rgb`.
    """
    times, rows, columns = grid
    maps = drawing.pca_rgb(patches, (times * rows, columns)).reshape(len(patches), times, rows, columns, 3)
    return np.stack([_side_by_side(moments) for moments in maps])


def coloured(clip: Tensor | NDArray[np.uint8], colours: Picture, **options: Any) -> Picture:
    """Colours of tubelets in the place of the frames that :func:`to_rgb` shows.

    Args:
        clip: see :func:`to_rgb`.
        colours: uint8 [times, rows, columns, 3] of the token grid.
        options: of :func:`to_rgb`.

    Returns:
        uint8 [H', W', 3], as large as the strip.
    """
    frames = _frames(clip, **_normalisation(options))
    height, width = frames[0].shape[:2]
    chosen = _chosen(len(frames), len(colours))
    return film_strip([drawing.resize(colours[number], height, width, smooth=False) for number in chosen])


def _side_by_side(moments: NDArray[np.uint8]) -> Picture:
    """[t, h, w, 3] -> [lines h, columns w, 3], grey where the last line is not full."""
    times, height, width = moments.shape[:3]
    columns = min(COLUMNS, times)
    lines = -(-times // columns)
    full = np.full((lines * columns, height, width, 3), _EDGE, np.uint8)
    full[:times] = moments
    return rearrange(full, "(l c) h w rgb -> (l h) (c w) rgb", l=lines)


def _normalisation(options: dict[str, Any]) -> dict[str, Any]:
    return {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "most": MOST_FRAMES} | options


def _frames(clip: Tensor | NDArray[np.uint8], mean: Sequence[float], std: Sequence[float], most: int) -> list[Picture]:
    """Some frames of a clip, each [H, W, 3] uint8."""
    tensor = torch.as_tensor(clip).detach().cpu()
    axis = 1 if tensor.dtype == torch.uint8 else 0
    if tensor.ndim != 4 or tensor.shape[axis] != 3:
        raise ValueError(f"a clip is float [3, T, H, W] or uint8 [T, 3, H, W], not {tensor.dtype} {list(tensor.shape)}")
    if axis == 0:
        tensor = tensor.transpose(0, 1)
    return [still.to_rgb(tensor[number], mean, std) for number in _chosen(min(most, len(tensor)), len(tensor))]


def _chosen(count: int, there: int) -> list[int]:
    """Numbers of ``count`` evenly spaced entries out of those that there are; repeated where there are fewer."""
    return [int((index + 0.5) * there / count) for index in range(count)]
