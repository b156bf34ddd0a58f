"""Another sampling rate: a polyphase filter of a Kaiser-windowed sinc, in NumPy.

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
def _phases(up: int, down: int) -> NDArray[np.float32]:
    """Low-pass at ``up`` times the source's rate with gain ``up``, cut into its phases.

    Returns:
        [up, taps]: row p holds the filter's places p, p + up, p + 2 up, ..., last first: in the order of the sources.
    """
    slower = max(up, down)
    half = ZERO_CROSSINGS * slower
    time = np.arange(-half, half + 1) / slower
    taps = np.sinc(ROLL_OFF * time) * np.kaiser(2 * half + 1, KAISER_BETA)
    taps = np.pad(taps * (up / taps.sum()), (0, -len(taps) % up))
    return np.ascontiguousarray(taps.reshape(-1, up).T[:, ::-1], dtype=np.float32)


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
    common = math.gcd(rate, new_rate)
    up, down = new_rate // common, rate // common
    phases = _phases(up, down)
    reach = phases.shape[1]
    half = ZERO_CROSSINGS * max(up, down)
    # Output n is the sum over k of filter[n * down - k * up + half] * source[k], so the last source it needs is
    # (n * down + half) // up. Outputs up apart use the same taps, on sources down apart.
    last = (np.arange(start, start + min(up, length), dtype=np.int64) * down + half) // up
    count = -(-length // up)
    begin = int(last[0]) - reach + 1
    source = _slice(waveform, begin, int(last[-1]) - begin + 1 + (count - 1) * down)
    windows = np.lib.stride_tricks.sliding_window_view(source, reach)
    out = np.empty((count, len(last)), np.float32)
    for column, end in enumerate(last.tolist()):
        first = end - reach + 1 - begin
        phase = ((start + column) * down + half) % up
        out[:, column] = windows[first : first + (count - 1) * down + 1 : down] @ phases[phase]
    return np.ascontiguousarray(out.reshape(-1)[:length])


def _slice(waveform: NDArray[np.float32], start: int, length: int) -> NDArray[np.float32]:
    """[length] of a recording from ``start``, zeros outside of it."""
    out = np.zeros(length, np.float32)
    begin, end = max(start, 0), min(start + length, len(waveform))
    if end > begin:
        out[begin - start : end - start] = waveform[begin:end]
    return out
