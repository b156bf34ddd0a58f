"""The log-mel front end: waveforms to spectrograms, batched, on the device where the waveforms lie.

Two conventions of the field, by ``framing``:

- ``centred`` (torchaudio, librosa; ATST): frame t is centred on sample t * hop, the signal is mirrored at both ends;
  power, triangular filters that are linear in Hz, 10 log10, everything more than ``dynamic_range`` dB below the
  recording's loudest cell lifted to that level.
- ``kaldi`` (Kaldi, AST, ASiT): frame t begins at sample t * hop, no sample is made up; each frame loses its mean and
  is pre-emphasised (0.97); filters that are linear in mel; natural logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.errors import UserError
from foundation.ranges import Deviation, Number, Range, check

PRE_EMPHASIS = 0.97
_AMIN = 1e-10
# Numbers of a spectrum that are worked on at once; changes no result. A CPU is twice as fast while they fit its cache.
_CHUNK, _CHUNK_CPU = 1 << 24, 1 << 19


@dataclass(frozen=True, kw_only=True)
class FrontEndConfig:
    """How a waveform becomes a log-mel spectrogram. The defaults are ATST's (Li and Li 2022); see :func:`published`."""

    rate: Annotated[int, Range(1000, 10**6)] = 16_000
    """Sampling rate at which the front end works, Hz; recordings at other rates are resampled."""
    mels: Annotated[int, Range(1, 4096)] = 64
    """Number of mel bands, the height of the spectrogram."""
    window: Annotated[float, Range(0, 1, above=True)] = 0.064
    """Length of the Hann window, seconds."""
    hop: Annotated[float, Range(0, 1, above=True)] = 0.010
    """Distance of two frames, seconds."""
    low: Annotated[float, Range(0, 1e6)] = 60.0
    """Lower edge of the lowest band, Hz."""
    high: Annotated[float, Range(0, 1e6, above=True)] | None = 7800.0
    """Upper edge of the highest band, Hz; None: half the rate."""
    framing: Literal["centred", "kaldi"] = "centred"
    """Convention of framing, filters and logarithm; see the module."""
    dynamic_range: Annotated[float, Range(0, 1e3, above=True)] | None = 80.0
    """Centred: decibels below the loudest cell at which a spectrogram is cut off; None: no cut."""
    mean: Number = -14.482
    """Subtracted from the logarithms (centred: dB of power at full scale 1; kaldi: natural logarithm)."""
    std: Deviation = 65.1662
    """Divided by. The defaults map ATST's smallest and largest value to -1 and 1."""

    def __post_init__(self) -> None:
        where = "front_end"
        check(self, where)
        if self.hop > self.window:
            raise UserError(
                f"{where}: hop is {self.hop} s and window {self.window} s; they must be 0 < hop <= window <= 1 s "
                "(usual: 0.010 and 0.025)"
            )
        if self.framing not in ("centred", "kaldi"):
            raise UserError(f"{where}.framing is {self.framing!r}; choose centred or kaldi")
        top = self.rate / 2 if self.high is None else self.high
        if not 0 <= self.low < top <= self.rate / 2:
            raise UserError(
                f"{where}: bands from {self.low:g} to {top:g} Hz; they must lie between 0 and half the rate "
                f"({self.rate / 2:g} Hz): set {where}.high to null for all of it"
            )
        if self.hop_samples < 1:
            raise UserError(f"{where}.hop is {self.hop} s, less than one sample at {self.rate} Hz")

    @property
    def window_samples(self) -> int:
        return round(self.window * self.rate)

    @property
    def hop_samples(self) -> int:
        return round(self.hop * self.rate)

    @property
    def fft(self) -> int:
        """Length of the Fourier transform: the next power of two of the window."""
        return 1 << (self.window_samples - 1).bit_length()

    @property
    def unit(self) -> float:
        """What one natural logarithm unit of power is in the spectrogram that comes out."""
        return (1.0 if self.framing == "kaldi" else 10.0 / math.log(10.0)) / self.std

    def frames(self, samples: int) -> int:
        """Frames of a waveform of that many samples."""
        if self.framing == "centred":
            return 1 + samples // self.hop_samples
        return 0 if samples < self.window_samples else 1 + (samples - self.window_samples) // self.hop_samples

    def samples(self, frames: int) -> int:
        """Fewest samples that give that many frames."""
        if self.framing == "centred":
            # The mirrored ends need half a transform of signal; a shorter one could not be mirrored.
            return max((frames - 1) * self.hop_samples, self.fft // 2 + 1)
        return (frames - 1) * self.hop_samples + self.window_samples

    def centre(self, frame: float) -> float:
        """Seconds from the first sample to the middle of a frame."""
        middle = 0.0 if self.framing == "centred" else self.window_samples / 2
        return (frame * self.hop_samples + middle) / self.rate

    def build(self) -> Callable[[Tensor], Tensor]:
        """The function from waveforms [R, T] to normalised spectrograms [R, mels, frames]; see :func:`log_mel`."""
        return lambda waveforms: log_mel(waveforms, self)


def published(name: str) -> FrontEndConfig:
    """Front ends as published: ``atst`` (64 mel, 64 ms, 16 kHz) or ``asit`` (AST's: 128 mel, 25 ms, 16 kHz).

    Raises:
        UserError: another name.
    """
    if name == "atst":
        return FrontEndConfig()
    if name == "asit":
        return FrontEndConfig(
            mels=128, window=0.025, low=20.0, high=None, framing="kaldi", dynamic_range=None, mean=-4.2677, std=9.138
        )
    raise UserError(f"no published front end {name!r}; there are atst and asit")


def mel_of(hertz: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """HTK's mel scale (O'Shaughnessy 1987): 2595 log10(1 + f / 700)."""
    return 2595.0 * np.log10(1.0 + np.asarray(hertz, np.float64) / 700.0)


def hertz_of(mel: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Frequency of a mel value, Hz."""
    return 700.0 * (10.0 ** (np.asarray(mel, np.float64) / 2595.0) - 1.0)


@lru_cache(maxsize=16)
def filters(config: FrontEndConfig) -> NDArray[np.float32]:
    """Triangular mel filters with peak 1, [fft / 2 + 1, mels]; linear in Hz (centred) or in mel (kaldi)."""
    high = config.rate / 2 if config.high is None else config.high
    bins = np.linspace(0.0, config.rate / 2, config.fft // 2 + 1)
    corners = np.linspace(mel_of(config.low), mel_of(high), config.mels + 2)
    if config.framing == "centred":
        corners = hertz_of(corners)
        places = bins
    else:
        places = mel_of(bins)
    rising = (places[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - places[:, None]) / (corners[2:] - corners[1:-1])
    weights = np.clip(np.minimum(rising, falling), 0.0, None)
    if config.framing == "kaldi":
        weights[-1] = 0.0  # Kaldi leaves out the bin at half the rate
    return weights.astype(np.float32)


_TABLES: dict[tuple[FrontEndConfig, Any], tuple[Tensor, Tensor]] = {}


def _tables(config: FrontEndConfig, device: Any) -> tuple[Tensor, Tensor]:
    """Window [window_samples] and filters [bins, mels] on a device, kept."""

    key = (config, device)
    if key not in _TABLES:
        if len(_TABLES) >= 16:
            _TABLES.clear()
        with torch.inference_mode(False):
            window = torch.hann_window(config.window_samples, periodic=config.framing == "centred", device=device)
            _TABLES[key] = window, torch.from_numpy(filters(config).copy()).to(device)
    return _TABLES[key]


def log_mel(waveforms: Tensor, config: FrontEndConfig) -> Tensor:
    """Log-mel spectrograms.

    Args:
        waveforms: float32 [R, T] at ``config.rate``, full scale 1.
        config: the front end.

    Returns:
        float32 [R, mels, frames], low bands first, (logarithm - mean) / std.

    Raises:
        UserError: fewer samples than one frame needs.
    """

    rows, length = waveforms.shape
    if length < config.samples(1):
        raise UserError(
            f"{length} samples ({length / config.rate:g} s at {config.rate} Hz) are too few for one frame of "
            f"{config.window:g} s: {config.samples(1)} are needed; ask for longer views"
        )
    chunk = _CHUNK_CPU if waveforms.device.type == "cpu" else _CHUNK
    each = max(1, chunk // max(1, config.frames(length) * (config.fft + 2)))
    with torch.autocast(waveforms.device.type, enabled=False):
        parts = [_log_mel(part.float(), config) for part in waveforms.split(each)]
    return torch.cat(parts) if parts else waveforms.new_zeros((rows, config.mels, config.frames(length)))


def _log_mel(waveforms: Tensor, config: FrontEndConfig) -> Tensor:

    window, weights = _tables(config, waveforms.device)
    if config.framing == "centred":
        spectrum = torch.stft(
            waveforms,
            config.fft,
            config.hop_samples,
            config.window_samples,
            window=window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )  # [R, bins, frames]
        power = spectrum.real.square() + spectrum.imag.square()
        logarithm = 10.0 * torch.log10((weights.T @ power).clamp_(min=_AMIN))
        if config.dynamic_range is not None:
            floor = logarithm.amax(dim=(1, 2), keepdim=True) - config.dynamic_range
            logarithm = torch.maximum(logarithm, floor)
    else:
        centred = waveforms - waveforms.mean(dim=1, keepdim=True)
        frames = centred.unfold(1, config.window_samples, config.hop_samples)  # [R, frames, window]
        frames = frames - frames.mean(dim=2, keepdim=True)
        before = torch.cat((frames[..., :1], frames[..., :-1]), dim=2)
        spectrum = torch.fft.rfft((frames - PRE_EMPHASIS * before) * window, n=config.fft)  # [R, frames, bins]
        power = spectrum.real.square() + spectrum.imag.square()
        epsilon = torch.finfo(torch.float32).eps
        logarithm = torch.log((power @ weights).clamp_(min=epsilon)).transpose(1, 2).contiguous()
    return (logarithm - config.mean) / config.std
