"""A target transform: a frozen teacher's features with mean 0, deviation 1 and no correlation between them.

Teachers have features of very different spread, and a few channels often carry most of it: a squared difference then
learns those alone (PHI-S, Ranzinger et al. 2024, compares ways to even it out). Of all transforms that whiten, this is
the symmetric one (ZCA): it moves features as little as possible, and it does not flip the sign of a direction from one
estimate to the next, as principal components do. Letters: n tokens, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation.parallel.collective import rank, sum_over_ranks

FLOOR = 1e-3
"""Least share of the identity in the covariance: directions that hold next to nothing are not blown up to noise."""
NORM_EPS = 1e-6


class Whitening(nn.Module):
    """``covariance ** -0.5 (feature - mean)``, both of the features of the first steps, over all processes.

    A step's features enter at the next step, so that k small batches give what one large one does. The transform is
    computed anew at steps that are powers of two and when the gathering ends; from then on it stays, as the teacher
    does. In the first step nothing is known: features then have mean 0 and deviation 1 each by itself (LayerNorm).
    From n tokens the covariance is shrunk towards a multiple of the identity of the same trace, by a share of
    D / (D + n), at least :data:`FLOOR`. A step whose features are not finite is left out.

    Args:
        width: D.
        steps: optimiser steps whose features are gathered.

    Attributes:
        centre: [D] mean that is subtracted.
        transform: [D, D] symmetric matrix that follows.
        mean: [D] of the features gathered so far.
        covariance: [D, D] of those.
        tokens: [] how many those are.
        pending_sum: [D] float64, sum over the tokens of the last step, less ``mean``.
        pending_products: [D, D] float64, sum of the outer products of the same.
        pending_tokens: [] float64, how many those are.
    """

    centre: Tensor
    transform: Tensor
    mean: Tensor
    covariance: Tensor
    tokens: Tensor
    pending_sum: Tensor
    pending_products: Tensor
    pending_tokens: Tensor

    def __init__(self, width: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        for name, axes in (("sum", 1), ("products", 2), ("tokens", 0)):
            # Before there is a mean to take off, products of features far from 0 differ in their last digits alone.
            self.register_buffer(f"pending_{name}", torch.zeros([width] * axes, dtype=torch.float64))
        for name, axes in (("centre", 1), ("transform", 2), ("mean", 1), ("covariance", 2), ("tokens", 0)):
            self.register_buffer(name, torch.zeros([width] * axes))
        self._step: int | None = None
        # A run that goes back to a checkpoint may come to the same step again, with other features pending.
        self.register_load_state_dict_post_hook(Whitening._begin_anew)

    @staticmethod
    def _begin_anew(module: Whitening, incompatible: Any) -> None:
        module._step = None

    @torch.no_grad()
    def forward(self, features: Tensor, step: int) -> Tensor:
        """Whitened features [n, D] of features [n, D] float32, at optimiser step ``step`` (from 0)."""
        if self.training and step != self._step and step <= self.steps:
            self._fold()
            if step and (step & (step - 1) == 0 or step == self.steps):
                self._renew()
        self._step = step
        if self.training and step < self.steps:
            self._gather(features)
        alone = F.layer_norm(features, features.shape[-1:], eps=NORM_EPS)
        return torch.where(self.transform.any(), (features - self.centre) @ self.transform, alone)

    def _gather(self, features: Tensor) -> None:
        rest = (features - self.mean).double()
        count = self.pending_tokens.new_full((1,), float(len(rest)))
        total = sum_over_ranks(torch.cat([(rest.T @ rest).flatten(), rest.sum(dim=0), count]))
        width = len(self.mean)
        self.pending_products += total[: width * width].view(width, width)
        self.pending_sum += total[width * width : -1]
        self.pending_tokens += total[-1]

    def _fold(self) -> None:
        """Let the last step's features enter mean and covariance."""
        count = self.tokens + self.pending_tokens
        share = 1.0 / count.clamp(min=1.0)
        shift = self.pending_sum * share
        covariance = (self.covariance * self.tokens + self.pending_products) * share - torch.outer(shift, shift)
        good = torch.isfinite(covariance).all() & (self.pending_tokens > 0)
        self.mean.copy_(torch.where(good, self.mean + shift, self.mean))
        self.covariance.copy_(torch.where(good, covariance, self.covariance))
        self.tokens.copy_(torch.where(good, count, self.tokens))
        for pending in (self.pending_sum, self.pending_products, self.pending_tokens):
            pending.zero_()

    def _renew(self) -> None:
        """Compute the transform from what was gathered; the same in all processes. This alone waits for the device."""
        tokens, width = float(self.tokens), len(self.mean)
        if not tokens:
            return
        share = max(width / (width + tokens), FLOOR)
        covariance = self.covariance.double()
        size = covariance.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
        values, vectors = torch.linalg.eigh(covariance * (1.0 - share))
        transform = (vectors * (values + share * size).clamp(min=share * size).rsqrt()) @ vectors.T
        self.transform.copy_(transform if rank() == 0 else torch.zeros_like(transform))
        sum_over_ranks(self.transform)  # processors of several kinds may round otherwise
        self.centre.copy_(self.mean)
