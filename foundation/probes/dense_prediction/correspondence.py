"""Matching patches of two views of one thing, and how often the nearest one lies at the right place (PCK)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def middles(grid: tuple[int, int]) -> Tensor:
    """[N, 2] middles (x, y) of the patches in [0, 1], row by row."""
    rows, columns = ((torch.arange(side) + 0.5) / side for side in grid)
    return torch.stack([columns.repeat(grid[0]), rows.repeat_interleave(grid[1])], 1)


def carried(places: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Where places of one view lie in another.

    Args:
        places: [N, 2] (x, y) in [0, 1] of the first view.
        first: [2, 3] affine map from the first view to their common source.
        second: [2, 3] that of the second view.

    Returns:
        [N, 2] in the second view; outside of [0, 1] where it does not show them.
    """
    source = places.double() @ first[:, :2].double().T + first[:, 2].double()
    return torch.linalg.solve(second[:, :2].double(), (source - second[:, 2].double()).T).T


def matched(features: Tensor, others: Tensor) -> Tensor:
    """[N] int64: for each patch [N, D] the most similar by cosine of the others [M, D]."""
    return (F.normalize(features, dim=-1) @ F.normalize(others, dim=-1).T).argmax(1)


def correct(found: Tensor, truth: Tensor, threshold: float) -> Tensor:
    """[N] bool: places [N, 2] that lie within ``threshold`` (a share of the view's side) of the true ones [N, 2]."""
    return (found.double() - truth.double()).square().sum(1).sqrt() <= threshold


def chance(truth: Tensor, grid: tuple[int, int], threshold: float) -> float:
    """Share that is right by :func:`correct` where patches are matched at random; truth [N, 2]."""
    distances = torch.cdist(truth.double(), middles(grid).double())
    return float((distances <= threshold).double().mean()) if len(truth) else math.nan


def ceiling(truth: Tensor, grid: tuple[int, int], threshold: float) -> float:
    """Share that is right where every patch is matched with the nearest one: patches are coarse; truth [N, 2]."""
    distances = torch.cdist(truth.double(), middles(grid).double())
    return float((distances.amin(1) <= threshold).double().mean()) if len(truth) else math.nan
