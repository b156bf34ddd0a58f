"""How well clusters found without labels agree with classes."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from foundation.probes.features import check_finite


@dataclass(frozen=True)
class Agreement:
    """Of clusters and classes.

    Attributes:
        nmi: mutual information over the mean of both entropies (Strehl and Ghosh 2002; arithmetic mean), in [0, 1].
        ari: adjusted Rand index (Hubert and Arabie 1985): 0 by chance, 1 for the same partition.
        accuracy: share of samples whose cluster stands for their class, where each cluster stands for one class and the
            assignment is the best there is (Kuhn 1955), in [0, 1].
        right: [S] bool, whose mean that is.
    """

    nmi: float
    ari: float
    accuracy: float
    right: Tensor


def k_means(features: Tensor, clusters: int, *, seed: int = 0, starts: int = 10) -> Tensor:
    """[S] int64 clusters of features [S, D] of length 1 (spherical k-means up to the length of the means).

    Args:
        features: normalised here.
        clusters: k.
        seed: of the starts.
        starts: k-means++ starts of which that of least inertia counts (Arthur and Vassilvitskii 2007).

    Raises:
        UserError: features are not finite.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    check_finite(features, "clustered")
    unit = nn.functional.normalize(features.float(), dim=1).numpy()
    with warnings.catch_warnings():  # fewer different points than clusters: some clusters stay empty
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(min(clusters, len(unit)), n_init=starts, random_state=seed % 2**32).fit(unit).labels_
    return torch.from_numpy(found.astype(np.int64))


def agreement(clusters: Tensor, labels: Tensor) -> Agreement:
    """Compare clusters [S] with classes [S], both int64 from 0."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = int(clusters.max()) + 1, int(labels.max()) + 1
    counts = torch.bincount(clusters * columns + labels, minlength=rows * columns).reshape(rows, columns).double()
    total = float(counts.sum())
    ofs = counts.sum(dim=1), counts.sum(dim=0)
    entropies = [_entropy(part / total) for part in ofs]
    mutual = entropies[0] + entropies[1] - _entropy(counts.flatten() / total)
    mean = (entropies[0] + entropies[1]) / 2
    nmi = 1.0 if mean <= 1e-15 else min(1.0, max(0.0, mutual / mean))
    pairs, one, two = (float((part * (part - 1) / 2).sum()) for part in (counts, *ofs))
    expected, most = one * two / max(1.0, math.comb(int(total), 2)), (one + two) / 2
    ari = 1.0 if most == expected else (pairs - expected) / (most - expected)
    chosen, classes = linear_sum_assignment(-counts.numpy())
    stands = torch.full((rows,), -1, dtype=torch.int64)
    stands[torch.from_numpy(chosen)] = torch.from_numpy(classes)
    right = stands[clusters] == labels
    return Agreement(nmi, ari, float(right.float().mean()), right)


def _entropy(shares: Tensor) -> float:
    there = shares[shares > 0]
    return float(-(there * there.log()).sum())
