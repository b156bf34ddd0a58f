"""Depth from patch tokens: bins of depth as classes, and how far the depth that is expected lies from the true one.

As in DINOv2 (Oquab et al. 2023, after AdaBins): the range of depths is cut into bins, a linear layer gives each a
share, and the depth is the mean of the bins' centres, weighted by the shares.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

METRICS = ("RMSE", "abs rel", "delta1")
"""Root mean squared error; mean of the error divided by the true depth; share of pixels with a depth that is wrong by
less than a factor of 1.25."""


def known(depths: NDArray[np.floating] | Tensor) -> NDArray[np.bool_]:
    """Where a depth is known: finite and above 0."""
    values = np.asarray(depths, np.float64)
    return np.isfinite(values) & (values > 0)


def span(maps: Iterable[NDArray[np.floating]]) -> tuple[float, float]:
    """Smallest and largest known depth of some maps; (inf, -inf) where none is known."""
    low, high = math.inf, -math.inf
    for values in maps:
        there = np.asarray(values, np.float64)[known(values)]
        if there.size:
            low, high = min(low, float(there.min())), max(high, float(there.max()))
    return low, high


def centres(low: float, high: float, count: int) -> Tensor:
    """[K] depths of the bins, evenly from the smallest to the largest."""
    return torch.linspace(low, high, count)


def shares(depths: Tensor, grid: tuple[int, int], bins: Tensor) -> Tensor:
    """Share of each bin in each patch.

    A pixel is shared by the two bins on either side of its depth, so that the mean of the bins is its depth.

    Args:
        depths: [H, W] float32, not above 0 where unknown; H and W are multiples of the grid.
        grid: patches down and across.
        bins: [K] of :func:`centres`.

    Returns:
        [N, K] float32; what is missing to 1 is unknown.
    """
    height, width = (side // cells for side, cells in zip(depths.shape, grid, strict=True))
    cells = depths.reshape(grid[0], height, grid[1], width).transpose(1, 2).reshape(grid[0] * grid[1], -1)
    there = (cells > 0).float()
    step = (bins[-1] - bins[0]) / (len(bins) - 1)
    place = ((cells - bins[0]) / step).clamp(0, len(bins) - 1)
    low = place.floor().clamp(max=len(bins) - 2)
    part = place - low
    table = torch.zeros(len(cells), len(bins), device=depths.device)
    table.scatter_add_(1, low.long(), (1 - part) * there)
    table.scatter_add_(1, low.long() + 1, part * there)
    return table / cells.shape[1]


def expected(logits: Tensor, bins: Tensor) -> Tensor:
    """Depths [H, W] of maps of logits [K, H, W]."""
    return torch.einsum("k...,k->...", logits.softmax(0), bins.to(logits))


def errors(found: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """The :data:`METRICS` of one picture over the pixels whose depth is known; NaN where none is.

    Args:
        found: [H, W], above 0.
        truth: [H, W], not above 0 where unknown.
    """
    there = truth > 0
    if not bool(there.any()):
        return math.nan, math.nan, math.nan
    said, real = found[there].double(), truth[there].double()
    error = said - real
    ratio = torch.maximum(said / real, real / said)
    return (
        float(error.square().mean().sqrt()),
        float((error.abs() / real).mean()),
        float((ratio < 1.25).double().mean()),
    )
