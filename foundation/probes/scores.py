"""How good predictions are: accuracy, accuracy that counts every class alike, and the interval that chance leaves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_Z = 1.959963984540054
"""Quantile of the normal distribution for 95 %."""


@dataclass(frozen=True)
class Score:
    """Of predictions on a test split.

    Attributes:
        top1: share of samples whose class is predicted, in [0, 1].
        balanced: mean over the classes of the test split of the share that is predicted, in [0, 1].
        interval: 95 % interval of ``top1``; None where all samples belong together.
    """

    top1: float
    balanced: float
    interval: tuple[float, float] | None


def score(predictions: Tensor, labels: Tensor, groups: Tensor | None = None) -> Score:
    """Score predictions [n] against labels [n], both int64 from 0.

    Args:
        predictions: of the samples.
        labels: likewise, the truth.
        groups: [n] int64, samples of one number belong together; empty or None: each sample by itself.
    """
    correct = predictions == labels
    right = int(correct.sum())
    there = torch.bincount(labels)
    hits = torch.bincount(labels[correct], minlength=len(there))
    classes = there > 0
    balanced = float((hits[classes] / there[classes]).mean()) if len(labels) else math.nan
    top1 = right / len(labels) if len(labels) else math.nan
    alone = wilson_interval(right, len(labels))
    if groups is None or not len(groups):
        return Score(top1, balanced, alone)
    return Score(top1, balanced, interval_of_groups(correct.double(), groups, alone, share=True))


def interval_of_groups(
    each: Tensor, groups: Tensor, own: tuple[float, float], *, share: bool
) -> tuple[float, float] | None:
    """95 % interval of a mean whose samples belong together in groups, where that is wider than its own.

    The variance of the mean is that of the groups' sums about it; of a share, Wilson's interval of as many samples as
    would give that variance (Korn and Graubard 1998), which holds near 0 and 1 too.

    Args:
        each: [n] float64.
        groups: [n] int64, samples of one number belong together.
        own: the interval of samples that know nothing of each other.
        share: the values lie in [0, 1].

    Returns:
        Lower and upper bound; None where there is one group, which says nothing of others.
    """
    _, rows = groups.unique(return_inverse=True)
    count, n = int(rows.max()) + 1, len(each)
    if count == n:
        return own
    if count == 1:
        return None
    from scipy.stats import t

    quantile, value = float(t.ppf(0.975, count - 1)), float(each.mean())
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, rows, each - value)
    variance = count / (count - 1) * float(sums.square().sum()) / n**2
    if share:
        spread = value * (1 - value)
        alike = spread / variance if variance > 0 else float(count)
        found = wilson_interval(value * alike, alike, quantile)
    else:
        found = value - quantile * math.sqrt(variance), value + quantile * math.sqrt(variance)
    return min(own[0], found[0]), max(own[1], found[1])


def wilson_interval(right: float, count: float, quantile: float = _Z) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), which holds for few samples and for shares near 0 and 1 too.

    Args:
        right: samples that are right.
        count: all samples; no whole number where some of them say the same.
        quantile: of the distribution of the mean, for 95 %.

    Returns:
        Lower and upper bound, in [0, 1]; (nan, nan) for an empty test split.
    """
    if not count:
        return math.nan, math.nan
    share, square = right / count, quantile**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = quantile / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    # At the ends the bound is 0 or 1 exactly, whatever the rounding.
    return (0.0 if not right else centre - half), (1.0 if right == count else centre + half)
