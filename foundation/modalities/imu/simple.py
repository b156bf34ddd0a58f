"""What a person would try first on inertial readings, for probes to compare with: statistics and spectra.

Of each channel, and of the length of each three channels (accelerometer, gyroscope), which a turned sensor keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

_FREQUENCIES, _STRETCH = 24, 32


def features(evaluation: Any) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """Simple features by name, each from evaluation views [B, C, T] to [B, D]."""
    return {
        "statistics of each axis": statistics,
        "spectrum of each axis": spectrum,
        "statistics and spectrum": statistics_and_spectrum,
        "spectrum of short stretches": short_spectrum,
    }


def statistics(view: Tensor) -> Tensor:
    """Mean, deviation, extremes, quartiles and mean step of each channel and length, [B, 7 channels]."""

    x = _with_lengths(view)
    quartiles = torch.quantile(x, torch.tensor([0.25, 0.75], device=x.device), dim=2)
    steps = x.diff(dim=2).abs().mean(dim=2) if x.shape[2] > 1 else torch.zeros_like(x[..., 0])
    parts = [x.mean(dim=2), x.std(dim=2, unbiased=False), x.amin(dim=2), x.amax(dim=2), *quartiles, steps]
    return torch.cat(parts, dim=1)


def spectrum(view: Tensor) -> Tensor:
    """Logarithm of the lowest amplitudes of the Fourier transform (mean taken off), [B, up to 24 x channels]."""

    x = _with_lengths(view)
    x = (x - x.mean(dim=2, keepdim=True)) * torch.hann_window(x.shape[2], device=x.device)
    return torch.fft.rfft(x, dim=2).abs()[..., 1 : 1 + _FREQUENCIES].clamp(min=1e-3).log().flatten(1)


def statistics_and_spectrum(view: Tensor) -> Tensor:
    """Both, side by side."""

    return torch.cat([statistics(view), spectrum(view)], dim=1)


def short_spectrum(view: Tensor) -> Tensor:
    """Mean and deviation over time of the logarithmic spectra of stretches of 32 steps, [B, up to 32 x channels].

    The deviation says what the spectrum of the whole does not: whether a motion comes evenly or in bursts.
    """

    x = _with_lengths(view)
    size = min(_STRETCH, x.shape[2])
    parts = x.unfold(2, size, max(1, size // 2))  # [B, channels, stretches, size]
    parts = (parts - parts.mean(dim=3, keepdim=True)) * torch.hann_window(size, device=x.device)
    logs = torch.fft.rfft(parts, dim=3).abs()[..., 1:].clamp(min=1e-2).log()
    return torch.cat([logs.mean(dim=2), logs.std(dim=2, unbiased=False)], dim=2).flatten(1)


def _with_lengths(view: Tensor) -> Tensor:
    """[B, C + C // 3, T]: the channels, then the length of each three."""

    x = view.float()
    triads = [part.norm(dim=1, keepdim=True) for part in x.split(3, dim=1) if part.shape[1] == 3]
    return torch.cat([x, *triads], dim=1)
