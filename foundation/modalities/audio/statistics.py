"""What a recipe wants to know of recordings: mean and deviation of the log-mel spectrogram, rates, lengths, levels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foundation.data.moments import Facts, Moments, rounded, spread
from foundation.modalities.audio.front_end import log_mel
from foundation.modalities.audio.resample import resample, resampled_length
from foundation.modalities.audio.views import Config
from foundation.types import Sample
from foundation.voice import plural

_PIECES = 32  # stretches of a long recording that are looked at, spread evenly
_FULL_SCALE = 1.0 - 2.0**-15


class Statistics:
    """Collects; see :class:`foundation.data.moments.Collector`.

    Args:
        views: a recipe's, or None: the defaults of the modality's views.
    """

    def __init__(self, views: Any = None, decoding: Any = None) -> None:

        self.views = views
        views = views or Config()
        self.front_end = replace(views.front_end, mean=0.0, std=1.0)
        self.length = self.front_end.samples(views.global_views.frames)
        self.waves, self.cells = Moments(), Moments()
        self.rates: Counter[int] = Counter()
        self.seconds, self.peaks, self.levels = list[float](), list[float](), list[float]()
        self.clipped = self.silent = self.short = 0

    def add(self, sample: Sample, raw: Mapping[str, Any]) -> None:
        """Take a decoded recording and its members."""
        wave, rate = sample["audio"].numpy(), int(sample["audio_rate"])
        self.waves.add(wave[:, None])
        self.rates[rate] += 1
        self.seconds.append(len(wave) / rate)
        peak = float(np.abs(wave).max())
        self.peaks.append(peak)
        self.clipped += peak >= _FULL_SCALE
        level = float(np.sqrt(np.square(wave, dtype=np.float64).mean()))
        self.silent += level == 0
        self.levels.append(20 * np.log10(max(level, 1e-10)))
        cells = self._log_mel(wave, rate)
        if cells is None:
            self.short += 1
        else:
            self.cells.add(cells)

    def _log_mel(self, wave: NDArray[np.float32], rate: int) -> NDArray[np.float64] | None:
        """Cells of the spectrograms of stretches as long as a view, [cells, 1]; None: too short for one frame."""

        total = resampled_length(len(wave), rate, self.front_end.rate)
        length = min(total, self.length)
        if length < max(self.front_end.samples(1), self.front_end.fft // 2 + 1):
            return None
        starts = np.unique(np.linspace(0, total - length, min(_PIECES, -(-total // length))).astype(np.int64))
        pieces = [resample(wave, rate, self.front_end.rate, int(start), length) for start in starts]
        return log_mel(torch.from_numpy(np.stack(pieces)), self.front_end).double().numpy().reshape(-1, 1)

    def facts(self) -> Facts:
        """Of the front end: mean and deviation of its logarithms; seconds, Hz, dB below full scale."""
        found = Facts()
        if self.cells.samples:
            mean, std = rounded(self.cells.mean[0]), rounded(self.cells.std[0])
            found.views["front_end"] = {"mean": mean, "std": std}
        found.facts["rate (Hz)"] = {str(rate): number for rate, number in sorted(self.rates.items())}
        found.facts["seconds"] = spread(self.seconds)
        found.facts["peak"] = spread(self.peaks)
        found.facts["level (dB of full scale)"] = spread(self.levels)
        found.facts["mean of the waveform"] = rounded(self.waves.mean[0])
        found.facts["deviation of the waveform"] = rounded(self.waves.std[0])
        lowest = min(self.rates)
        if lowest < self.front_end.rate:
            number = sum(n for rate, n in self.rates.items() if rate < self.front_end.rate)
            found.warnings.append(
                f"{plural(number, 'recording')} with fewer than front_end.rate = {self.front_end.rate} samples per "
                f"second (the fewest: {lowest}): what lies above half of their rate is silence to the encoder"
            )
        for number, text in (
            (self.clipped, "at full scale: may be clipped"),
            (self.silent, "without any sound"),
            (self.short, "too short for one frame of the front end"),
        ):
            if number:
                found.warnings.append(f"{plural(number, 'recording')} {text}")
        found.misfits += self._misfits()
        return found

    def _misfits(self) -> list[str]:
        if self.views is None:
            return []
        asked, there = self.length / self.front_end.rate, float(np.median(self.seconds))
        if asked <= there * 1.01:
            return []
        filled = "silence" if self.views.short == "silence" else "the recording again"
        frames = self.front_end.frames(int(there * self.front_end.rate))
        return [
            f"a global view is {asked:.3g} s long and the recordings are {there:.3g} s (median): {filled} fills the "
            f"rest (views.short). Set views.global_views.frames to {max(1, frames)} or less"
        ]
