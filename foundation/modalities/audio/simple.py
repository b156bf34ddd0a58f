"""What a person would try first on sound, for probes to compare with: how loud each band is and how it changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

_REACH = 2
"""Frames on both sides that a slope is fitted to (the usual width of delta coefficients)."""


def features(evaluation: Any) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """Simple features by name, each from evaluation views [B, 1, mels, frames] to [B, D]."""
    return {
        "log-mel mean and deviation": mean_and_deviation,
        "log-mel means of four parts": four_parts,
        "log-mel deltas": deltas,
    }


def mean_and_deviation(view: Tensor) -> Tensor:
    """Mean and standard deviation of each band over time, [B, 2 mels]."""

    bands = view[:, 0].float()
    return torch.cat([bands.mean(dim=2), bands.std(dim=2, unbiased=False)], dim=1)


def four_parts(view: Tensor) -> Tensor:
    """Mean of each band over each quarter of the time, and its standard deviation over all of it, [B, 5 mels]."""

    bands = view[:, 0].float()
    means = [part.mean(dim=2) for part in bands.tensor_split(4, dim=2) if part.shape[2]]
    return torch.cat([*means, bands.std(dim=2, unbiased=False)], dim=1)


def deltas(view: Tensor) -> Tensor:
    """Mean and standard deviation over time of each band, of its slope and of the slope's slope, [B, 6 mels]."""

    bands = view[:, 0].float()
    slopes = slope(bands)
    courses = (bands, slopes, slope(slopes))
    moments = [moment for course in courses for moment in (course.mean(dim=2), course.std(dim=2, unbiased=False))]
    return torch.cat(moments, dim=1)


def slope(bands: Tensor) -> Tensor:
    """Slope of a straight line through the frames around each frame (delta coefficients, Furui 1986), as ``bands``.

    Args:
        bands: [B, mels, frames]; the first and last frame go on beyond the ends.
    """

    frames, wide = bands.shape[2], pad(bands, (_REACH, _REACH), mode="replicate")
    rise = bands * 0
    for step in range(1, _REACH + 1):
        after, before = (wide[:, :, _REACH + shift :][:, :, :frames] for shift in (step, -step))
        rise = rise + step * (after - before)
    return rise / (2 * sum(step * step for step in range(1, _REACH + 1)))
