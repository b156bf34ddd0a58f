"""How a person looks at sound: the log-mel spectrogram, low notes at the bottom, what a mask hides dimmed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.modalities import drawing
from foundation.modalities.audio.decode import decode as by_default
from foundation.modalities.audio.front_end import FrontEndConfig, log_mel
from foundation.modalities.drawing import Picture, resize
from foundation.types import Sample

_SMALLEST = 96  # pixels of the shorter side: spectrograms of few bands are enlarged to be seen


MAPS_ON_SAMPLES = True
"""Reports draw maps of numbers over the sample."""
LEGEND = "Time runs to the right and frequency upwards; bright is loud."
"""What the axes and colours of its pictures mean, for a person."""
CELL = (160, 72)
"""Width and height of a sample on a contact sheet, pixels."""
_LONGEST = 10.0  # seconds of a recording on a contact sheet


def of_raw(raw: Mapping[str, Any], decode: Callable[[Any], Sample] | None = None) -> Picture:
    """A sample of a shard as a person looks at it: up to ten seconds of its spectrogram, at its own rate.

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

    rate = int(sample["audio_rate"])
    seconds = min(len(sample["audio"]) / rate, _LONGEST)
    hop = max(0.004, seconds / 160)
    front = FrontEndConfig(rate=rate, window=max(0.032, hop), hop=hop, high=None)  # a long one leaves nothing out
    waveform = sample["audio"][: round(seconds * rate)]
    least = front.samples(8)
    waveform = torch.nn.functional.pad(waveform, (0, max(0, least - len(waveform))))
    return to_rgb(log_mel(waveform[None], front)[0])


def to_rgb(view: Tensor | NDArray[Any]) -> Picture:
    """A spectrogram to look at; dark is silence. Low frequencies at the bottom, time to the right.

    Args:
        view: float [1, mels, frames] or [mels, frames].

    Returns:
        uint8 [mels * k, frames * k, 3], enlarged k times where it is small.

    Raises:
        ValueError: another shape.
    """
    tensor = torch.as_tensor(view).detach().cpu().float()
    if tensor.ndim == 3 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 2:
        raise ValueError(f"a spectrogram is [1, mels, frames] or [mels, frames], not {tuple(tensor.shape)}")
    # A faint hiss is no picture of anything: the darkest hundredth is cut off.
    low, high = tensor.quantile(0.01).item(), tensor.max().item()
    picture = np.ascontiguousarray(drawing.heat_rgb(tensor, low, max(high, low + 1e-3))[::-1])
    factor = max(1, _SMALLEST // min(picture.shape[:2]))
    return np.array(resize(picture, picture.shape[0] * factor, picture.shape[1] * factor, smooth=False))


def heat_rgb(heat: Tensor | NDArray[Any], low: float | None = None, high: float | None = None) -> Picture:
    """Colours of a map of numbers over the token grid [rows, columns], low frequencies at the bottom."""
    return np.ascontiguousarray(drawing.heat_rgb(heat, low, high)[::-1])


def overlay(view: Tensor | NDArray[Any], heat: Tensor | NDArray[Any], strength: float = 0.6) -> Picture:
    """A map of numbers over a spectrogram (attention of one head).

    Args:
        view: see :func:`to_rgb`.
        heat: [rows, columns] of the token grid; enlarged smoothly.
        strength: share of the map in the mixture.
    """
    return drawing.laid_over(to_rgb(view), heat_rgb(heat), strength)


def mask_overlay(view: Tensor | NDArray[Any], masked: Tensor | NDArray[np.bool_], grid: tuple[int, int]) -> Picture:
    """Which tokens a mask hides: those are dimmed and greyed.

    Args:
        view: see :func:`to_rgb`.
        masked: [N] bool, row-major over the grid, low frequencies first.
        grid: tokens along frequency and time.
    """
    hidden = torch.as_tensor(masked).cpu().reshape(grid).flip(0)
    return drawing.dimmed(to_rgb(view), hidden, grid)


def pca_rgb(patches: Tensor, grid: tuple[int, int]) -> Picture:
    """The three main directions of patch features as red, green and blue, low frequencies at the bottom.

    Args:
        patches: [n, N, D] with N = rows x columns of the grid.
        grid: tokens along frequency and time.

    Returns:
        uint8 [n, rows, columns, 3].
    """
    return np.ascontiguousarray(drawing.pca_rgb(patches, grid)[:, ::-1])


def coloured(view: Tensor | NDArray[Any], colours: Picture) -> Picture:
    """Colours of tokens, as large as their spectrogram, low frequencies at the bottom; each token stays a rectangle.

    Args:
        view: see :func:`to_rgb`.
        colours: uint8 [rows, columns, 3] of the token grid, low frequencies first.

    Returns:
        uint8 [H, W, 3].
    """
    height, width = to_rgb(view).shape[:2]
    return resize(np.ascontiguousarray(colours[::-1]), height, width, smooth=False)
