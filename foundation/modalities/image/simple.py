"""What a person would try first on images, for probes to compare with: colours of cells, HOG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad

_CELLS = 4
_CELL_PIXELS, _HOG_CELLS, _DIRECTIONS = 8, 8, 9


def features(evaluation: Any) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """Simple features by name, each from evaluation views [B, 3, H, W] to [B, D]."""
    return {"colours of cells": colours, "HOG": hog}


def colours(view: Tensor) -> Tensor:
    """Mean and deviation of each channel in 4 x 4 cells, [B, 2 x 3 x 16]."""

    view = view.float()
    mean = _pooled(view)
    return torch.cat([mean, (_pooled(view.square()) - mean.square()).clamp(min=0).sqrt()], dim=1).flatten(1)


def hog(view: Tensor) -> Tensor:
    """Histograms of oriented gradients (Dalal and Triggs 2005), [B, D].

    The gradient of the channel in which it is largest, its direction (without sign) shared between the two nearest of
    9 bins; cells of 8 x 8 pixels, or 8 x 8 cells where that would be more; blocks of 2 x 2 cells, one cell apart, each
    divided by its length, cut off at 0.2 and divided again. 4 x 4 cells (32 pixels) give 324 numbers, 8 x 8 give 1,764.
    """

    batch, _, height, width = view.shape
    planes = pad(view.float(), (1, 1, 1, 1), mode="replicate")
    across, down = planes[:, :, 1:-1, 2:] - planes[:, :, 1:-1, :-2], planes[:, :, 2:, 1:-1] - planes[:, :, :-2, 1:-1]
    best = (across.square() + down.square()).argmax(1, keepdim=True)
    across, down = across.gather(1, best), down.gather(1, best)  # [B, 1, H, W]
    size = (across.square() + down.square()).sqrt()
    place = torch.atan2(down, across) % math.pi * (_DIRECTIONS / math.pi) - 0.5
    lower = place.floor()
    bins = size.new_zeros(batch, _DIRECTIONS, height, width)
    bins.scatter_add_(1, lower.long() % _DIRECTIONS, size * (lower + 1 - place))
    bins.scatter_add_(1, (lower.long() + 1) % _DIRECTIONS, size * (place - lower))
    rows, columns = (min(_HOG_CELLS, max(2, side // _CELL_PIXELS)) for side in (height, width))
    cells = adaptive_avg_pool2d(bins, (rows, columns))
    blocks = torch.cat([cells[:, :, a : a - 1 or None, b : b - 1 or None] for a in (0, 1) for b in (0, 1)], dim=1)
    blocks = blocks / (blocks.square().sum(1, keepdim=True) + 1e-4).sqrt()
    blocks = blocks.clamp(max=0.2)
    return (blocks / (blocks.square().sum(1, keepdim=True) + 1e-4).sqrt()).flatten(1)


def _pooled(view: Tensor) -> Tensor:

    return adaptive_avg_pool2d(view, (min(_CELLS, view.shape[2]), min(_CELLS, view.shape[3])))
