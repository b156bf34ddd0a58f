"""The device half of the views: noise, mixup, random resized crop and SpecAugment, batched over rows.

All parameters were drawn on the host. Nothing here asks the device for a number, and no generator is used: the noise
is a pure function of a key per row.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # as int64
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 on int64, see ``foundation/counter.py``; ``>>`` is made logical by a mask."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _FIRST
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _SECOND
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def normal(keys: Tensor, length: int) -> Tensor:
    """Normal numbers that depend on nothing but their row's key (Box and Muller 1958).

    Args:
        keys: [R] int64.
        length: numbers per row.

    Returns:
        float32 [R, length].
    """
    places = torch.arange(1, length + 1, device=keys.device, dtype=torch.int64) * _GOLDEN
    bits = _mix(keys[:, None] + places)
    first = ((bits >> 40) & ((1 << 24) - 1)).float().add_(0.5).mul_(2.0**-24)
    second = ((bits >> 16) & ((1 << 24) - 1)).float().mul_(2.0 * math.pi * 2.0**-24)
    return first.log_().mul_(-2.0).sqrt_().mul_(second.cos_())


def add_noise(waveforms: Tensor, keys: Tensor, ratio: Tensor) -> Tensor:
    """White noise of a level relative to each recording's own; silence stays silent.

    Args:
        waveforms: [R, T].
        keys: [R] int64.
        ratio: [R] root mean square of the noise over that of the recording; 0 for none.
    """
    level = waveforms.square().mean(dim=1).sqrt() * ratio
    return waveforms + level[:, None] * normal(keys, waveforms.shape[1])


def mix_logarithms(spectrograms: Tensor, partners: Tensor, shares: Tensor, unit: float) -> Tensor:
    """A second sound in the background: powers are added, spectrograms stay logarithms (BYOL-A, Niizumi et al. 2021).

    Args:
        spectrograms: [R, mels, frames].
        partners: [R] int64, row of the sound that is mixed in.
        shares: [R] share of it, 0 to 1 (excluded).
        unit: what one natural logarithm unit of power is in the spectrograms. 1 takes the normalised numbers for
            natural logarithms, as the released BYOL-A and ATST do: log((1 - a) exp(x) + a exp(y)).
    """
    own = spectrograms / unit + torch.log1p(-shares)[:, None, None]
    other = spectrograms.index_select(0, partners) / unit + shares.log()[:, None, None]
    return torch.logaddexp(own, other) * unit


def resize_crop(spectrograms: Tensor, boxes: Tensor, canvas: Tensor) -> Tensor:
    """Random resized crop of a spectrogram in the middle of an empty canvas (BYOL-A, ATST).

    Bicubic (a = -0.75) with the corners of crop and result on one another.

    Args:
        spectrograms: [R, mels, frames].
        boxes: [R, 4] int64: top, left, height, width of the crop on the canvas, in bands and frames.
        canvas: [R, 2] int64: place of the spectrogram's first band and frame on the canvas. The canvas is 0.

    Returns:
        [R, mels, frames].
    """
    _, mels, frames = spectrograms.shape
    rows, weights = _taps(boxes[:, 0] - canvas[:, 0], boxes[:, 2], mels)
    out = torch.zeros_like(spectrograms)
    for tap in range(4):
        part = spectrograms.gather(1, rows[:, :, tap, None].expand(-1, -1, frames))
        out += part * weights[:, :, tap, None]
    columns, weights = _taps(boxes[:, 1] - canvas[:, 1], boxes[:, 3], frames)
    result = torch.zeros_like(spectrograms)
    for tap in range(4):
        part = out.gather(2, columns[:, None, :, tap].expand(-1, mels, -1))
        result += part * weights[:, None, :, tap]
    return result


def _taps(begin: Tensor, extent: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Which cells of an axis make up each cell of the result: places and weights, each [R, size, 4].

    Args:
        begin: [R] first cell of the crop; may lie outside of the spectrogram.
        extent: [R] cells of the crop.
        size: cells of the spectrogram, and of the result.
    """
    cells = torch.arange(size, device=begin.device, dtype=torch.float64)
    where = cells * (extent[:, None] - 1) / max(size - 1, 1)  # [R, size], from the crop's first cell
    whole = where.floor()
    t = (where - whole).float()[..., None]
    a = -0.75
    distance = torch.cat((t + 1, t, 1 - t, 2 - t), dim=2)
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    weights = torch.where(distance <= 1, near, far)
    taps = whole.long()[..., None] + torch.arange(-1, 3, device=begin.device)
    # Beyond the crop its edge is repeated; beyond the spectrogram the canvas is 0.
    taps = torch.minimum(taps.clamp(min=0), extent[:, None, None] - 1) + begin[:, None, None]
    inside = (taps >= 0) & (taps < size)
    return taps.clamp(0, size - 1), weights * inside


def fill_bands(spectrograms: Tensor, starts: Tensor, widths: Tensor, axis: int) -> Tensor:
    """SpecAugment (Park et al. 2019): stretches of an axis get the spectrogram's mean.

    Args:
        spectrograms: [R, mels, frames].
        starts: [R, n] int64, first cell of each stretch.
        widths: [R, n] int64, cells; 0 for none.
        axis: 1 for mel bands, 2 for frames.
    """
    cells = torch.arange(spectrograms.shape[axis], device=spectrograms.device)
    hidden = ((cells >= starts[..., None]) & (cells < (starts + widths)[..., None])).any(dim=1)  # [R, cells]
    hidden = hidden[:, :, None] if axis == 1 else hidden[:, None, :]
    return torch.where(hidden, spectrograms.mean(dim=(1, 2), keepdim=True), spectrograms)
