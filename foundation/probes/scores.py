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
        interval: 95 % interval of ``top1``.
    """

    top1: float
    balanced: float
    interval: tuple[float, float]


def score(predictions: Tensor, labels: Tensor) -> Score:
    """Score predictions [n] against labels [n], both int64 from 0."""
    correct = predictions == labels
    right = int(correct.sum())
    there = torch.bincount(labels)
    hits = torch.bincount(labels[correct], minlength=len(there))
    classes = there > 0
    balanced = float((hits[classes] / there[classes]).mean()) if len(labels) else math.nan
    top1 = right / len(labels) if len(labels) else math.nan
    return Score(top1, balanced, wilson_interval(right, len(labels)))


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
