"""Alignment and uniformity of features on the unit sphere (Wang and Isola 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from foundation.probes.features import check_finite

_ROWS = 1024


def alignment(one: Tensor, two: Tensor) -> Tensor:
    """[S] squared distance of the features of two views of each sample, [S, D] each, after scaling to length 1."""
    check_finite(one, "first view's")
    check_finite(two, "second view's")
    return (nn.functional.normalize(one.float(), dim=1) - nn.functional.normalize(two.float(), dim=1)).square().sum(1)


def uniformity(features: Tensor, scale: float = 2.0) -> float:
    """Logarithm of the mean of ``exp(-scale * squared distance)`` over all pairs of features [S, D] of length 1.

    0 where all are the same; the least there can be is about ``-2 * scale`` for large D. NaN for fewer than two.
    """
    check_finite(features, "looked at")
    x = nn.functional.normalize(features.float(), dim=1)
    total, count = 0.0, len(x) * (len(x) - 1)
    if not count:
        return math.nan
    for start in range(0, len(x), _ROWS):
        near = (2 * scale * (x[start : start + _ROWS] @ x.T - 1)).clamp(max=0).exp().double()
        rows = torch.arange(len(near))
        near[rows, rows + start] = 0
        total += float(near.sum())
    return math.log(total / count)
