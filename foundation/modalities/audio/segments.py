"""The geometric half of the views: which stretch of a recording a view hears."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundation.modalities.audio.resample import resample, resampled_length


@dataclass(frozen=True)
class Recording:
    """A recording as it sounds at the rate of the front end; only what is cut out is ever resampled.

    Attributes:
        waveform: float32 [T] at its own rate.
        rate: its own, Hz.
        new_rate: of the front end, Hz.
    """

    waveform: NDArray[np.float32]
    rate: int
    new_rate: int

    @classmethod
    def of(cls, sample: dict[str, Any], new_rate: int) -> Recording:
        """From a decoded sample."""
        return cls(sample["audio"].numpy(), int(sample["audio_rate"]), new_rate)

    @property
    def length(self) -> int:
        """Samples at the new rate."""
        return resampled_length(len(self.waveform), self.rate, self.new_rate)

    def cut(self, start: int, length: int, wrap: bool = False) -> NDArray[np.float32]:
        """A stretch at the new rate.

        Args:
            start: first sample; where it is negative or the end lies behind the recording's, there is silence.
            length: samples wanted.
            wrap: after its end the recording begins again, in place of silence.

        Returns:
            float32 [length].
        """
        if not wrap:
            return resample(self.waveform, self.rate, self.new_rate, start, length)
        whole = self.length
        start %= whole
        if start + length <= whole:
            return resample(self.waveform, self.rate, self.new_rate, start, length)
        if length >= whole:
            once = resample(self.waveform, self.rate, self.new_rate, 0, whole)
            return once[(start + np.arange(length)) % whole]
        head = resample(self.waveform, self.rate, self.new_rate, start, whole - start)
        return np.concatenate([head, resample(self.waveform, self.rate, self.new_rate, 0, length - len(head))])


def starts(uniforms: NDArray[np.float64], lengths: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    """First samples of random stretches.

    Args:
        uniforms: [B] in [0, 1).
        lengths: [B] samples of the recordings.
        wanted: samples of the stretch.

    Returns:
        [B] uniform over all places at which the stretch lies inside the recording; where the recording is the shorter
        one, over all places at which it lies inside the stretch (0 or negative).
    """
    slack = lengths - wanted
    return np.where(slack >= 0, np.floor(uniforms * (slack + 1)), -np.floor(uniforms * (1 - slack))).astype(np.int64)
