"""How a person looks at inertial readings: coloured traces, one panel for each sensor, attention behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.modalities import drawing
from foundation.modalities.drawing import Picture, resize
from foundation.modalities.imu.decode import Config
from foundation.modalities.imu.evaluation import MEAN, STD
from foundation.types import Sample

_COLOURS = ((214, 69, 65), (39, 140, 70), (45, 95, 200))  # x, y, z
_PAPER, _LINE, _HIDDEN = (255, 255, 255), (214, 214, 220), (176, 176, 186)
_PANEL = 3  # channels of one panel
MAPS_ON_SAMPLES = True
"""Reports draw maps of numbers over the sample."""
COLOURS_UNDER_SAMPLE = True
"""What :func:`coloured` draws holds the sample too."""
LEGEND = "Time runs to the right; x is red, y green and z blue, with a panel for every three channels."
"""What the axes and colours of its pictures mean, for a person."""
CELL = (192, 144)
"""Width and height of a sample on a contact sheet, pixels."""
_STRIP, _CHANNEL = 28, 10  # pixels of a strip of colours, at least; of each of its rows
_SHARP = 3  # lines are drawn so many times as large and reduced: smooth edges


def of_raw(raw: Mapping[str, Any], decode: Callable[[Any], Sample] | None = None) -> Picture:
    """A sample of a shard as a person looks at it: its traces from begin to end.

    Args:
        raw: members by extension. Where nothing says the rate, time has no scale.
        decode: reads it, as a recipe's views say; None: the decoder with its defaults.

    Returns:
        uint8 [H, W, 3], of any size.

    Raises:
        SampleError: it cannot be read.
    """

    return of_sample((decode or Config(rate=50.0).build())(raw))


def of_sample(sample: Sample) -> Picture:
    """A decoded sample as :func:`of_raw` draws it."""
    readings = sample["imu"]
    count = readings.shape[1]
    return to_rgb(readings.T, (0.0,) * count, (1.0,) * count)


def to_rgb(
    view: Tensor | NDArray[Any],
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    height: int = 96,
    width: int = 256,
) -> Picture:
    """Traces to look at: x red, y green, z blue; a panel for each three channels, all of a panel on one scale.

    Args:
        view: normalised readings, float [C, T].
        mean: of the normalisation, per channel.
        std: of the normalisation, per channel.
        height: of a panel, pixels.
        width: of the picture, pixels.

    Returns:
        uint8 [panels * height, width, 3].

    Raises:
        ValueError: not [C, T].
    """
    return _draw(view, mean, std, height, width, None)


def heat_rgb(heat: Tensor | NDArray[Any], low: float | None = None, high: float | None = None) -> Picture:
    """Colours of a map of numbers over the token grid [rows, columns]; a single row is drawn as a band."""
    return _band(drawing.heat_rgb(heat, low, high))


def overlay(view: Tensor | NDArray[Any], heat: Tensor | NDArray[Any], strength: float = 0.6, **options: Any) -> Picture:
    """Traces with a map of numbers (attention of one head) in the colour of the paper behind them.

    Args:
        view: see :func:`to_rgb`.
        heat: [rows, columns] of the token grid; several rows (one for each channel) are averaged over a panel.
        strength: share of the map's colour.
        options: of :func:`to_rgb`.
    """
    rows = torch.as_tensor(heat).detach().float().cpu()
    panels = -(-torch.as_tensor(view).shape[0] // _PANEL)
    parts = [rows] * panels if len(rows) == 1 else list(rows.split(_PANEL))
    stacked = torch.stack([part.mean(0) for part in parts])
    colours = drawing.heat_rgb(stacked, float(rows.min()), float(rows.max())).astype(np.float64)
    return _draw(view, behind=((1.0 - strength) * 255.0 + strength * colours).astype(np.uint8), **_sizes(options))


def mask_overlay(
    view: Tensor | NDArray[Any], masked: Tensor | NDArray[np.bool_], grid: tuple[int, int], **options: Any
) -> Picture:
    """Which stretches a mask hides: grey paper, where it hides any channel of a panel.

    Args:
        view: see :func:`to_rgb`.
        masked: [N] bool, time fastest.
        grid: rows and columns of tokens.
        options: of :func:`to_rgb`.
    """
    hidden = torch.as_tensor(masked).detach().cpu().reshape(grid)
    panels = -(-torch.as_tensor(view).shape[0] // _PANEL)
    parts = [hidden] * panels if grid[0] == 1 else list(hidden.split(_PANEL))
    rows = torch.stack([part.any(0) for part in parts]).numpy()[..., None]
    return _draw(
        view, behind=np.where(rows, np.array(_HIDDEN, np.uint8), np.array(_PAPER, np.uint8)), **_sizes(options)
    )


def pca_rgb(patches: Tensor, grid: tuple[int, int]) -> Picture:
    """The three main directions of token features as red, green and blue.

    Args:
        patches: [n, N, D] with N = rows x columns of the grid.
        grid: rows and columns of tokens.

    Returns:
        uint8 [n, rows, columns, 3]; a single row is repeated to a band.
    """
    return np.stack([_band(colours) for colours in drawing.pca_rgb(patches, grid)])


def coloured(view: Tensor | NDArray[Any], colours: Picture, **options: Any) -> Picture:
    """Traces, and under them the colours of their tokens as a strip over the same time.

    Args:
        view: see :func:`to_rgb`.
        colours: uint8 [rows, columns, 3] of the token grid; several rows are one for each channel.
        options: of :func:`to_rgb`.

    Returns:
        uint8 [panels * height + strip, width, 3].
    """
    traces = _draw(view, behind=None, **_sizes(options))
    strip = resize(colours, max(_STRIP, _CHANNEL * len(colours)), traces.shape[1], smooth=False)
    return np.ascontiguousarray(np.concatenate([traces, strip]))


def _band(colours: Picture) -> Picture:
    return np.repeat(colours, max(1, colours.shape[1] // 4), axis=0) if colours.shape[0] == 1 else colours


def _sizes(options: dict[str, Any]) -> dict[str, Any]:
    return {"mean": MEAN, "std": STD, "height": 96, "width": 256} | options


def _draw(
    view: Tensor | NDArray[Any],
    mean: Sequence[float],
    std: Sequence[float],
    height: int,
    width: int,
    behind: NDArray[np.uint8] | None,
) -> Picture:
    """The picture; ``behind`` [panels, columns, 3] colours the paper."""
    from PIL import Image, ImageDraw

    values = torch.as_tensor(view).detach().cpu().double().numpy()
    if values.ndim != 2:
        raise ValueError(f"readings are [channels, time steps], not {list(values.shape)}")
    scales = np.ones(len(values))
    if len(mean) == len(std) == len(values):  # panels in their own units, so that axes of a sensor can be compared
        scales = np.array(std, np.float64)
        values = values * scales[:, None] + np.array(mean)[:, None]
    panels = []
    for number in range(0, len(values), _PANEL):
        part = values[number : number + _PANEL]
        paper = np.full((height, width, 3), _PAPER, np.uint8)
        if behind is not None:
            paper = resize(behind[number // _PANEL][None], height, width, smooth=False)
        image = Image.fromarray(paper).resize((width * _SHARP, height * _SHARP), Image.Resampling.NEAREST)
        draw = ImageDraw.Draw(image)
        # A resting sensor shall look at rest: noise is not blown up to the height of the panel.
        reach = max(float(np.abs(part).max(initial=0.0)), 0.2 * scales[number]) * 1.08
        across = (np.arange(part.shape[1]) + 0.5) / part.shape[1] * width * _SHARP
        middle = height * _SHARP / 2
        draw.line([(0, middle), (width * _SHARP, middle)], fill=_LINE, width=_SHARP)
        for trace, colour in zip(part, _COLOURS, strict=False):
            down = middle * (1.0 - trace / reach)
            draw.line(list(zip(across.tolist(), down.tolist(), strict=True)), fill=colour, width=2 * _SHARP)
        draw.line([(0, height * _SHARP - 1), (width * _SHARP, height * _SHARP - 1)], fill=_LINE, width=_SHARP)
        panels.append(np.asarray(image.resize((width, height), Image.Resampling.BOX)))
    return np.ascontiguousarray(np.concatenate(panels))
