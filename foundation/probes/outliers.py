"""Out-of-distribution detection by frozen features: how strange a sample is, and how well that tells two sets apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from foundation.probes import knn
from foundation.probes.features import check_finite
from foundation.probes.scores import wilson_interval

_Z = 1.959963984540054


@dataclass(frozen=True)
class Separation:
    """How well a score tells samples of another distribution from known ones.

    Attributes:
        auroc: probability that a sample of the other distribution scores higher, ties counting half (Mann and Whitney
            1947; Hendrycks and Gimpel 2017).
        interval: 95 %, of the variance of DeLong et al. (1988); where that is 0, because one set lies beyond the other,
            Wilson's of as many samples as the smaller set has.
        fpr95: share of the other samples that pass as known where 95 % of the known ones do.
        each: [n] of each known sample, the share of the others that score higher; its mean is ``auroc``.
    """

    auroc: float
    interval: tuple[float, float]
    fpr95: float
    each: Tensor


def knn_distance(bank: Tensor, queries: Tensor, k: int, device: torch.device | str = "cpu") -> Tensor:
    """[Q] distance from each query to its k-th nearest training sample, all of length 1 (Sun et al. 2022).

    Args:
        bank: [S, D] of the training samples.
        queries: [Q, D].
        k: at most S.
        device: where to compute.
    """
    near = knn.search(bank, queries, k, device=device)
    return (2 - 2 * near.similarities[:, -1]).clamp(min=0).sqrt()


def mahalanobis(train: Tensor, labels: Tensor | None, queries: Tensor) -> Tensor:
    """[Q] squared distance to the nearest class mean under one covariance of all classes (Lee et al. 2018).

    Args:
        train: [S, D].
        labels: [S] int64; None: all samples are one class.
        queries: [Q, D].
    """
    check_finite(train, "training")
    check_finite(queries, "query")
    x, y = train.double(), torch.zeros(len(train), dtype=torch.int64) if labels is None else labels
    known = y.unique(sorted=True)
    means = torch.stack([x[y == label].mean(dim=0) for label in known])
    centred = x - means[torch.searchsorted(known, y)]
    covariance = centred.T @ centred / len(x)
    # As large as rounding is small: singular where samples are few.
    ridge = 1e-6 * covariance.diagonal().mean().clamp(min=1e-12)
    factor = torch.linalg.cholesky(covariance + ridge * torch.eye(x.shape[1], dtype=torch.float64))
    white = torch.linalg.solve_triangular(factor, torch.cat([means, queries.double()]).T, upper=False).T
    return torch.cdist(white[len(means) :], white[: len(means)]).square().amin(dim=1)


def separation(known: Tensor, others: Tensor) -> Separation:
    """Compare how strange known samples [n] and others [m] are; larger is stranger."""
    a, b = known.double(), others.double()
    of_known, of_others = _placements(a, b), 1 - _placements(b, a)
    auroc = float(of_known.mean())
    least = min(len(a), len(b))
    variance = sum(float(part.var()) / len(part) for part in (of_known, of_others)) if least > 1 else 0.0
    half = _Z * math.sqrt(variance)
    # Where no placement differs (all are told apart, or there is one sample) the variance says nothing.
    interval = (max(0.0, auroc - half), min(1.0, auroc + half)) if half else wilson_interval(auroc * least, least)
    threshold = a.sort().values[max(0, math.ceil(0.95 * len(a)) - 1)]
    fpr95 = float((b <= threshold).double().mean())
    return Separation(auroc, interval, fpr95, of_known.float())


def _placements(values: Tensor, others: Tensor) -> Tensor:
    """Of each value the share of others that are larger, ties counting half."""
    order = others.sort().values
    below = torch.searchsorted(order, values, right=False) + torch.searchsorted(order, values, right=True)
    return 1 - below / (2 * len(others))
