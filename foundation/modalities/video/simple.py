"""What a person would try first on clips, for probes to compare with: the mean frame, and where it changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d

_SIDE = 12
_DIFFERENCES = (8, 6)
"""Most moments, and cells along a side, of which signed differences are kept."""


def features(evaluation: Any) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """Simple features by name, each from evaluation views [B, 3, T, H, W] to [B, D]."""
    return {
        "mean and deviation of frames": mean_and_deviation,
        "changes between frames": changes,
        "frame differences": differences,
    }


def mean_and_deviation(view: Tensor) -> Tensor:
    """Mean and standard deviation over time of each place on a coarse grid, grey, [B, 2 x 12 x 12]."""

    frames = _coarse(view)
    return torch.cat([frames.mean(dim=1), frames.std(dim=1, unbiased=False)], dim=1).flatten(1)


def changes(view: Tensor) -> Tensor:
    """Mean change from frame to frame of each place, and of the whole frame at each time, [B, 144 + T - 1]."""

    steps = _coarse(view).diff(dim=1).abs()
    return torch.cat([steps.mean(dim=1).flatten(1), steps.mean(dim=(2, 3))], dim=1)


def differences(view: Tensor) -> Tensor:
    """What becomes lighter or darker where and when: signed differences of frames, [B, moments x 6 x 6].

    At most 8 moments; of a longer clip, means of neighbouring differences.
    """

    frames = _coarse(view)
    steps = frames.diff(dim=1) if frames.shape[1] > 1 else frames * 0
    moments, side = _DIFFERENCES
    size = (min(moments, steps.shape[1]), min(side, steps.shape[2]), min(side, steps.shape[3]))
    return adaptive_avg_pool3d(steps, size).flatten(1)


def _coarse(view: Tensor) -> Tensor:
    """[B, T, h, w] grey frames of at most 12 x 12."""

    grey = view.float().mean(dim=1)
    return adaptive_avg_pool2d(grey, (min(_SIDE, grey.shape[2]), min(_SIDE, grey.shape[3])))
