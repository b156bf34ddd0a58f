"""Filters of the views: readings at any times, free of aliases, and the slow part of a signal. NumPy only."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_ZERO_CROSSINGS = 6
"""Half width of the interpolation filter, in periods of the slower of the two rates."""


def readings_at(values: NDArray[np.float32], positions: NDArray[np.float64], stride: float) -> NDArray[np.float32]:
    """Readings between the readings: a Hann-windowed sinc around each place.

    Args:
        values: [T, C].
        positions: [n] wanted, in steps of ``values`` from its first one. Outside of the recording it is mirrored at its
            ends.
        stride: steps between two positions; above 1, what the new rate cannot hold is taken out.

    Returns:
        float32 [n, C]. A constant stays a constant everywhere: the weights of a place sum to 1.
    """
    whole = np.rint(positions)
    if stride <= 1.0 + 1e-9 and np.abs(positions - whole).max(initial=0.0) < 1e-6:
        return values[mirrored(whole.astype(np.int64), len(values))]
    widest = max(1.0, stride)
    half = math.ceil(_ZERO_CROSSINGS * widest)
    first = np.floor(positions).astype(np.int64)
    index = first[:, None] + np.arange(1 - half, half + 1)[None]  # [n, taps]
    distance = (positions[:, None] - index) / widest
    window = np.cos(np.clip(distance / _ZERO_CROSSINGS, -1.0, 1.0) * (math.pi / 2)) ** 2
    weights = np.sinc(distance) * window
    weights /= weights.sum(axis=1, keepdims=True)
    found = values[mirrored(index, len(values))]  # [n, taps, C]
    return np.matmul(weights[:, None, :].astype(np.float32), found)[:, 0]


def mirrored(index: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Places inside a recording for any places, folded at its first and last reading."""
    if length == 1:
        return np.zeros_like(index)
    period = 2 * (length - 1)
    folded = np.abs(index) % period
    return np.minimum(folded, period - folded)


def slow(values: NDArray[np.floating], rate: float, cut_off: float) -> NDArray[np.float64]:
    """The part of a signal below a frequency, without delay: a Gaussian filter, half the power at the cut-off.

    Args:
        values: [T, C].
        rate: Hz.
        cut_off: Hz.

    Returns:
        [T, C]. Near the ends the filter is one-sided, not padded.
    """
    # |H(f)|^2 = exp(-4 pi^2 sigma^2 f^2) is one half at the cut-off.
    sigma = math.sqrt(math.log(2.0)) / (2.0 * math.pi * cut_off) * rate
    length = len(values)
    reach = min(length - 1, math.ceil(4.0 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    size = 1 << (length + 2 * reach - 1).bit_length()
    spectrum = np.fft.rfft(kernel, size)
    columns = np.concatenate([np.asarray(values, np.float64), np.ones((length, 1))], axis=1)
    smooth = np.fft.irfft(np.fft.rfft(columns, size, axis=0) * spectrum[:, None], size, axis=0)[reach : reach + length]
    return np.asarray(smooth[:, :-1] / smooth[:, -1:])
