"""A grid of linear heads trained at once by stochastic gradient descent, and its heads that cannot win leave early.

Every head is a learning rate and a kind of input. The heads of one kind are one matrix, so a step of all learning rates
costs two products. The gradient of softmax cross-entropy is written out: there is nothing else to differentiate.

Nearly all of the time is in products of heads that are not chosen. So heads compete while they train (successive
halving: Jamieson and Talwalkar 2016): after each tenth of the steps the worst quarter of the grid leaves, until a
quarter is left, which trains to the end exactly as it would in the whole grid. What is compared is the mean of a head's
weights over that tenth (Polyak and Juditsky 1992), because at its full rate a head with a large one swings about what
it will settle on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import hardshrink

FEWEST_HEADS = 4
"""So many heads, if there are, train to the end however small the grid is."""

FEWEST_STEPS = 1000
"""Of fewer steps no head leaves: a tenth of them would say too little."""

_NO_ERROR = 1e-30
_NO_VELOCITY = 1e-25
_CLEANED_EVERY = 100
"""Numbers below 1e-38 are denormal, and processors compute them up to a hundred times slower. Heads that are fitted
have many: errors of samples that they are sure of, and velocities that decay by a tenth in each step. Both are set to 0
long before, where they no longer change a bit of any weight, whatever the thread. (``torch.set_flush_denormal`` reaches
the calling thread only.)"""

_SUMMED_EVERY = 4
"""Weights of steps beside each other are nearly the same: the mean takes every fourth."""


@dataclass(frozen=True)
class Head:
    """One cell of the grid."""

    learning_rate: float
    blocks: int
    pooling: bool

    @property
    def name(self) -> str:
        pooled = " + mean patch" if self.pooling else ""
        return f"last {self.blocks} block{'s' if self.blocks > 1 else ''}{pooled}, lr {self.learning_rate:g}"


def rungs(heads: int, total_steps: int) -> dict[int, int]:
    """After which steps heads leave, and how many then go on."""
    if total_steps < FEWEST_STEPS:
        return {}
    least = min(heads, FEWEST_HEADS)
    return {tenth * total_steps // 10: max(least, heads - tenth * heads // 4) for tenth in (1, 2, 3)}


class Grid:
    """All heads of a grid, kind by kind.

    Args:
        learning_rates: for a batch of 256; scaled by batch size / 256.
        kinds: (blocks, pooling) pairs.
        columns: of the inputs that the heads of each kind see.
        num_classes: C.
        batch_size: samples per step.
        momentum: of stochastic gradient descent.
        total_steps: of the cosine that takes every learning rate to 0.
        seed: of the weights; heads of one kind begin with the same ones.
        averages: means of the weights are kept for :meth:`predict`, until :meth:`keep` says otherwise.
        device: where the weights lie.

    Attributes:
        heads: all of them, in order of the grid.
        training: places in ``heads`` of those that have not left, ascending.
        done: steps.
    """

    def __init__(
        self,
        learning_rates: Sequence[float],
        kinds: Sequence[tuple[int, bool]],
        columns: Sequence[slice],
        num_classes: int,
        *,
        batch_size: int,
        momentum: float,
        total_steps: int,
        seed: int = 0,
        averages: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.heads = tuple(Head(rate, *kind) for kind in kinds for rate in learning_rates)
        self.training = tuple(range(len(self.heads)))
        self.num_classes, self.momentum, self.total_steps, self.done = num_classes, momentum, total_steps, 0
        self._columns = tuple(columns)
        generator = torch.Generator().manual_seed(seed)
        scaled = torch.tensor(learning_rates) * batch_size / 256
        # [width + 1, C x heads]: the last row is the bias, which starts at zero; the heads of one class stand side by
        # side, over which softmax is fastest.
        self._rates, self._weights = [], []
        for span in columns:
            weight = torch.zeros(span.stop - span.start + 1, num_classes, len(learning_rates))
            weight[:-1] = torch.randn(len(weight) - 1, num_classes, 1, generator=generator).mul_(0.01)
            self._weights.append(weight.flatten(1).to(device))
            self._rates.append(scaled.repeat(num_classes).to(device))
        self._velocity = [torch.zeros_like(weight) for weight in self._weights]
        self._sums = [torch.zeros_like(weight) for weight in self._weights] if averages else []
        self._one_hot = torch.eye(num_classes, device=device)[..., None]
        self._ones = torch.ones(batch_size, device=device)
        # A batch has its place, because new memory for each costs more than the copy. Its rows lie a little further
        # apart than they are long: at a distance of 4 KiB or a multiple they would share few lines of the cache.
        width = max(span.stop for span in columns)
        self._batch = torch.empty(batch_size, width + 16, device=device)[:, :width]

    def logits(self, kind: int, x: Tensor, averaged: bool = False) -> Tensor:
        """[B, C, heads of this kind that train].

        Args:
            kind: place in ``kinds``.
            x: [B, W] inputs of all kinds.
            averaged: of the sum of the weights since heads left last, or since the beginning: its largest is that of
                their mean.
        """
        weight = (self._sums if averaged else self._weights)[kind]
        heads = weight.shape[1] // self.num_classes
        return torch.addmm(weight[-1], x[:, self._columns[kind]], weight[:-1]).unflatten(1, (self.num_classes, heads))

    def step(self, inputs: Tensor, rows: Tensor, labels: Tensor) -> None:
        """One step of all heads that have not left.

        Args:
            inputs: [S, W] of all samples, for all kinds.
            rows: [B] int64, the samples of this step.
            labels: [S] int64 of all samples.
        """
        factor = 0.5 * (1 + np.cos(np.pi * self.done / self.total_steps))
        x = torch.index_select(inputs, 0, rows, out=self._batch[: len(rows)])
        wanted = self._one_hot[labels[rows]]
        mean = {"beta": self.momentum, "alpha": 1 / len(rows)}
        for kind, weight in enumerate(self._weights):
            if not weight.shape[1]:
                continue
            error = self.logits(kind, x).softmax(dim=1).sub_(wanted)
            error = hardshrink(error.flatten(1), _NO_ERROR)
            velocity = self._velocity[kind]
            velocity[:-1].addmm_(x[:, self._columns[kind]].T, error, **mean)
            velocity[-1].addmv_(error.T, self._ones[: len(rows)], **mean)
            if self.done % _CLEANED_EVERY == 0:
                self._velocity[kind] = velocity = hardshrink(velocity, _NO_VELOCITY)
            weight.addcmul_(velocity, self._rates[kind], value=-factor)
            if self._sums and self.done % _SUMMED_EVERY == 0:
                self._sums[kind].add_(weight)
        self.done += 1

    def predict(self, x: Tensor, averaged: bool = False) -> Tensor:
        """[heads that train, B] int64 classes of inputs [B, W]; ``averaged``: by the mean of the weights."""
        return torch.cat([self.logits(kind, x, averaged).argmax(dim=1).T for kind in range(len(self._weights))])

    def keep(self, places: Sequence[int], averages: bool) -> None:
        """Only these heads go on.

        Args:
            places: in ``heads``, of some that train.
            averages: means of the weights begin anew; else none are kept any longer.
        """
        stay = torch.tensor([place in places for place in self.training], device=self._ones.device)
        counts = [weight.shape[1] // self.num_classes for weight in self._weights]
        for kind, of_kind in enumerate(stay.split(counts)):
            stays = of_kind.repeat(self.num_classes)
            for parts in (self._weights, self._velocity, self._rates):
                parts[kind] = parts[kind][..., stays]
        self.training = tuple(sorted(places))
        self._sums = [torch.zeros_like(weight) for weight in self._weights] if averages else []
