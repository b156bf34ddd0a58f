"""Label maps: shares of classes in patches, logits of patches as maps of pixels, intersection over union."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

IGNORED = 255
"""Label of pixels that are not known and count nowhere (PASCAL VOC)."""


def numbered(labels: NDArray[np.integer], places: Mapping[int, int], ignored: int) -> Tensor:
    """Labels [...] as class numbers int64, -1 where they are ignored or unknown to ``places``."""
    flat = np.full(labels.shape, -1, np.int64)
    for label, place in places.items():
        if label != ignored:
            flat[labels == label] = place
    return torch.from_numpy(flat)


def shares(classes: Tensor, grid: tuple[int, int], count: int) -> Tensor:
    """Share of each class in each patch.

    Args:
        classes: [H, W] int64, -1 where unknown; H and W are multiples of the grid.
        grid: patches down and across.
        count: classes C.

    Returns:
        [N, C] float32; what is missing to 1 is unknown.
    """
    height, width = (side // cells for side, cells in zip(classes.shape, grid, strict=True))
    cells = classes.reshape(grid[0], height, grid[1], width).transpose(1, 2).reshape(grid[0] * grid[1], -1)
    table = torch.zeros(len(cells), count + 1, device=classes.device)
    table.scatter_add_(1, cells.where(cells >= 0, cells.new_tensor(count)), torch.ones_like(cells, dtype=torch.float32))
    return table[:, :count] / cells.shape[1]


def upsampled(values: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Numbers of patches [N, C] as maps of pixels [C, H, W], bilinear."""
    maps = values.T.reshape(1, -1, *grid)
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)[0]


def overlaps(found: Tensor, truth: Tensor, count: int) -> NDArray[np.int64]:
    """[C, 3] pixels of each class that are right, false and missed; found and truth [H, W], unknown truth is -1."""
    known = truth >= 0
    table = torch.bincount(truth[known] * count + found[known], minlength=count * count).reshape(count, count)
    right = table.diagonal()
    return torch.stack([right, table.sum(0) - right, table.sum(1) - right], 1).cpu().numpy()


def mean_iou(counts: NDArray[np.int64]) -> float:
    """Mean over the classes that occur in the truth of intersection over union, from [C, 3]; NaN without any."""
    right, false, missed = counts.T
    occur = right + missed > 0
    return float((right[occur] / (right + false + missed)[occur]).mean()) if occur.any() else math.nan


def pixel_accuracy(counts: NDArray[np.int64]) -> float:
    """Share of the known pixels that are right, from [C, 3]."""
    right, _, missed = counts.sum(0)
    return float(right / max(right + missed, 1))


def mean_iou_interval(counts: NDArray[np.int64], seed: int = 0, draws: int = 1000) -> tuple[float, float]:
    """95 % interval of :func:`mean_iou` over resampled images; counts [S, C, 3]."""
    weights = np.random.default_rng(seed).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=draws)
    values = [mean_iou(total) for total in np.tensordot(weights, counts, axes=1)]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def mean_interval(
    values: Sequence[float] | NDArray[np.float64], seed: int = 0, draws: int = 1000
) -> tuple[float, float]:
    """95 % interval of a mean [S] over resampled samples; those without a value (NaN) are left out."""
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return math.nan, math.nan
    weights = np.random.default_rng(seed).multinomial(len(known), np.full(len(known), 1 / len(known)), size=draws)
    low, high = np.percentile(weights @ known / len(known), [2.5, 97.5])
    return float(low), float(high)
