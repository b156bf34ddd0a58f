"""Another sampling rate: a polyphase filter of a Kaiser-windowed sinc (scipy.signal.upfirdn).

Cutting and resampling commute: any stretch of the resampled recording can be computed from the part of the recording
around it, so a view of a long file costs what the view lasts, and two views that overlap agree in every sample.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

ZERO_CROSSINGS = 24
"""Half width of the filter, in periods of the lower of the two rates."""
ROLL_OFF = 0.945
"""Cut-off as a share of the lower Nyquist frequency."""
KAISER_BETA = 9.0
"""Shape of the window: stop band below -90 dB."""


@lru_cache(maxsize=8)
def _filter(up: int, down: int) -> NDArray[np.float32]:
    """Low-pass at the rate ``up`` times the source's, of odd length, gain ``up``."""
    slower = max(up, down)
    half = ZERO_CROSSINGS * slower
    time = np.arange(-half, half + 1) / slower
    taps = np.sinc(ROLL_OFF * time) * np.kaiser(2 * half + 1, KAISER_BETA)
    return (taps * (up / taps.sum())).astype(np.float32)


def resampled_length(length: int, rate: int, new_rate: int) -> int:
    """Samples that a recording has at another rate, rounded up."""
    return -(-length * new_rate // rate)


def resample(waveform: NDArray[np.float32], rate: int, new_rate: int, start: int, length: int) -> NDArray[np.float32]:
    """A stretch of a recording at another rate.

    Args:
        waveform: [T] the whole recording.
        rate: of it, Hz.
        new_rate: wanted, Hz.
        start: first sample wanted, at the new rate; may be negative.
        length: samples wanted.

    Returns:
        [length] float32. Before its begin and after its end a recording is silent.
    """
    if rate == new_rate:
        return _slice(waveform, start, length)
    from scipy.signal import upfirdn

    common = math.gcd(rate, new_rate)
    up, down = new_rate // common, rate // common
    taps = _filter(up, down)
    half = (len(taps) - 1) // 2
    # Output n is the sum over k of taps[n * down - k * up + half] * source[k]: the sources that it needs lie within
    # half / up of n * down / up.
    first = (start * down - half) // up
    last = -((-(start + length - 1) * down - half) // up)
    source = _slice(waveform, first, last - first + 1)
    # upfirdn's output m lies at m * down in the grid of taps; shift the source's begin so that ours are among them.
    offset = start * down - first * up + half
    lead = -offset % down
    full = upfirdn(np.concatenate([np.zeros(lead, np.float32), taps]), source, up, down)
    begin = (offset + lead) // down
    return np.ascontiguousarray(full[begin : begin + length], dtype=np.float32)


def _slice(waveform: NDArray[np.float32], start: int, length: int) -> NDArray[np.float32]:
    """[length] of a recording from ``start``, zeros outside of it."""
    out = np.zeros(length, np.float32)
    begin, end = max(start, 0), min(start + length, len(waveform))
    if end > begin:
        out[begin - start : end - start] = waveform[begin:end]
    return out
