"""What a person would try first on images, for probes to compare with: colours of cells, directions of edges."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_CELLS, _DIRECTIONS = 4, 8


def features(evaluation: Any) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """Simple features by name, each from evaluation views [B, 3, H, W] to [B, D]."""
    return {"colours of cells": colours, "directions of edges": edges}


def colours(view: Tensor) -> Tensor:
    """Mean and deviation of each channel in 4 x 4 cells, [B, 2 x 3 x 16]."""
    import torch

    view = view.float()
    mean = _pooled(view)
    return torch.cat([mean, (_pooled(view.square()) - mean.square()).clamp(min=0).sqrt()], dim=1).flatten(1)


def edges(view: Tensor) -> Tensor:
    """Histogram of the directions of the gradient in 4 x 4 cells, weighted by its size (Dalal and Triggs 2005)."""
    import torch
    from torch.nn.functional import normalize, one_hot

    grey = view.float().mean(dim=1)
    across = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]
    down = grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]
    angle = torch.atan2(down, across) % math.pi
    bins = one_hot((angle / math.pi * _DIRECTIONS).long().clamp(max=_DIRECTIONS - 1), _DIRECTIONS)
    size = (across.square() + down.square()).sqrt()
    return normalize(_pooled((bins * size[..., None]).permute(0, 3, 1, 2)).flatten(1), dim=1)


def _pooled(view: Tensor) -> Tensor:
    from torch.nn.functional import adaptive_avg_pool2d

    return adaptive_avg_pool2d(view, (min(_CELLS, view.shape[2]), min(_CELLS, view.shape[3])))
