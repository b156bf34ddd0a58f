"""What a person would try first on sound, for probes to compare with: how loud each band is and how it changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def features(evaluation: Any) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """Simple features by name, each from evaluation views [B, 1, mels, frames] to [B, D]."""
    return {"log-mel mean and deviation": mean_and_deviation, "log-mel means of four parts": four_parts}


def mean_and_deviation(view: Tensor) -> Tensor:
    """Mean and standard deviation of each band over time, [B, 2 mels]."""
    import torch

    bands = view[:, 0].float()
    return torch.cat([bands.mean(dim=2), bands.std(dim=2, unbiased=False)], dim=1)


def four_parts(view: Tensor) -> Tensor:
    """Mean of each band over each quarter of the time, and its standard deviation over all of it, [B, 5 mels]."""
    import torch

    bands = view[:, 0].float()
    means = [part.mean(dim=2) for part in bands.tensor_split(4, dim=2) if part.shape[2]]
    return torch.cat([*means, bands.std(dim=2, unbiased=False)], dim=1)
