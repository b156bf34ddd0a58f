"""Multinomial logistic regression on shares of classes, by L-BFGS.

A patch holds pixels of several classes: its target is the share of each. With one class for each row this is the
ordinary logistic regression. The loss is convex, so the result depends on no seed and no order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STRENGTHS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Of the weight decay, strongest first: each fit begins where the last one ended."""


@dataclass(frozen=True)
class Linear:
    """One layer on features as they come.

    Attributes:
        weight: [D, K].
        bias: [K].
        strength: of the weight decay that it was fitted with.
    """

    weight: Tensor
    bias: Tensor
    strength: float

    def __call__(self, features: Tensor) -> Tensor:
        """Logits [..., K] of features [..., D]."""
        weight, bias = (part.to(features.device) for part in (self.weight, self.bias))
        return features @ weight + bias


def fit(
    features: Tensor,
    targets: Tensor,
    strengths: Sequence[float] = STRENGTHS,
    *,
    iterations: int = 60,
    tolerance: float = 1e-6,
) -> Iterator[Linear]:
    """One layer for each strength of the weight decay.

    Minimises ``-sum(t log softmax(x w + b)) / sum(t) + strength / 2 |w|^2`` of standardised features; the bias is free.

    Args:
        features: [n, D] float32.
        targets: [n, K] shares of the classes, not negative; a row that sums to less counts for less.
        strengths: in their order.
        iterations: of L-BFGS, for each.
        tolerance: largest slope at which it ends earlier.
    """
    mean, deviation = features.mean(0), features.std(0, correction=0)
    deviation = torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))
    inputs = (features - mean) / deviation
    total = targets.sum().clamp(min=1e-12)
    shares = (targets.sum(0) / total).clamp(min=1e-6)
    weight = torch.zeros(features.shape[1], targets.shape[1], device=features.device, requires_grad=True)
    bias = shares.log().clone().requires_grad_()
    for strength in strengths:
        optimizer = torch.optim.LBFGS(
            [weight, bias],
            max_iter=iterations,
            tolerance_grad=tolerance,
            tolerance_change=1e-7,
            history_size=10,
            line_search_fn="strong_wolfe",
        )

        def loss(strength: float = strength, optimizer: torch.optim.LBFGS = optimizer) -> Tensor:
            optimizer.zero_grad()
            logits = torch.addmm(bias, inputs, weight)
            value = -(targets * logits.log_softmax(-1)).sum() / total + 0.5 * strength * weight.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        with torch.enable_grad():
            optimizer.step(loss)  # type: ignore[no-untyped-call]
        folded = weight.detach() / deviation[:, None]
        yield Linear(folded, bias.detach() - mean @ folded, strength)
