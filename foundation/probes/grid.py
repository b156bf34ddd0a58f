"""A grid of linear heads trained at once by stochastic gradient descent, and its heads that cannot win leave early.

Every head is a learning rate and a kind of input. Kinds share numbers (all see the class token of the last block), so
weights are laid out by the numbers that they belong to: one product serves all heads that see them. The gradient of
softmax cross-entropy is written out: there is nothing else to differentiate.

Nearly all of the time is in products of heads that are not chosen. So heads compete while they train (successive
halving: Jamieson and Talwalkar 2016): after each twelfth of the steps the worst quarter of the grid leaves, until a
quarter is left, and after half of the steps the worse half of that. An eighth trains to the end, exactly as it would in
the whole grid. Two things make early figures a fair forecast. What is compared is the mean of a head's weights since
the last time that heads left (Polyak and Juditsky 1992), because at its full rate a head with a large one swings about
what it will settle on. And a head counts as much as the better of its neighbours in learning rate, because the best
rate moves by about one place until the end.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import hardshrink

FEWEST_HEADS = 4
"""So many heads, if there are, train to the end however small the grid is."""

FEWEST_STEPS = 1000
"""Of fewer steps no head leaves: a twelfth of them would say too little."""

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
    shares = {1: 6, 2: 4, 3: 2, 6: 1}  # eighths of the heads that go on after so many twelfths of the steps
    return {twelfths * total_steps // 12: max(least, eighths * heads // 8) for twelfths, eighths in shares.items()}


def contenders(accuracies: Mapping[Head, float], count: int) -> list[Head]:
    """So many of some heads that may still win, by their accuracy and that of their neighbours in learning rate."""
    order = sorted(accuracies, key=lambda head: (head.blocks, head.pooling, head.learning_rate))
    best = dict(accuracies)
    for one, other in pairwise(order):
        if (one.blocks, one.pooling) == (other.blocks, other.pooling):
            best[one] = max(best[one], accuracies[other])
            best[other] = max(best[other], accuracies[one])
    # Of equals the larger rate: near chance, where all are equal, it will be the first to leave it.
    return sorted(order, key=lambda head: (best[head], accuracies[head], head.learning_rate), reverse=True)[:count]


@dataclass(frozen=True)
class Segment:
    """Numbers of the inputs that the same heads see.

    Attributes:
        columns: of the inputs.
        heads: places of the heads, one behind the other.
    """

    columns: slice
    heads: slice


class Grid:
    """All heads of a grid.

    Inputs are [S, W] of all heads; their last column is 1, and its weight the bias.

    Args:
        heads: in the order of their places.
        segments: what they see.
        width: W.
        num_classes: C.
        batch_size: most samples per step; learning rates, which are for 256, are scaled by batch size / 256.
        momentum: of stochastic gradient descent.
        total_steps: of the cosine that takes every learning rate to 0.
        seed: of the weights, which are the same for all heads of a kind.
        averages: means of the weights are kept for :meth:`predict`, until :meth:`keep` says otherwise.
        device: where the weights lie.

    Attributes:
        heads: all of them.
        training: places of those that have not left, ascending.
        done: steps.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        segments: Sequence[Segment],
        width: int,
        num_classes: int,
        *,
        batch_size: int,
        momentum: float,
        total_steps: int,
        seed: int = 0,
        averages: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.heads, self.training = tuple(heads), tuple(range(len(heads)))
        self.num_classes, self.momentum, self.total_steps, self.done = num_classes, momentum, total_steps, 0
        self._segments = (*segments, Segment(slice(width - 1, width), slice(0, len(heads))))
        # [heads x C, numbers] of each segment. Logits are [heads, C, B], so that softmax runs over whole rows.
        self._weights = [weight.flatten(0, 1).to(device) for weight in self._drawn(seed)]
        self._velocity = [torch.zeros_like(weight) for weight in self._weights]
        self._sums = [torch.zeros_like(weight) for weight in self._weights] if averages else []
        rates = torch.tensor([head.learning_rate for head in heads]) * batch_size / 256
        self._rates = rates.repeat_interleave(num_classes)[:, None].to(device)
        self._one_hot = torch.eye(num_classes, device=device)
        # A batch has its place, because new memory for each costs more than the copy. Its rows lie a little further
        # apart than they are long: at a distance of 4 KiB or a multiple they would share few lines of the cache.
        self._batch = torch.empty(batch_size, width + 15, device=device)[:, :width]

    def _drawn(self, seed: int) -> list[Tensor]:
        """[heads, C, numbers] for each segment: the same for all heads of a kind, and a bias of zero."""
        generator = torch.Generator().manual_seed(seed)
        spans = [(part.heads.start, part.heads.stop, part.columns.stop - part.columns.start) for part in self._segments]
        found = [torch.zeros(stop - start, self.num_classes, numbers) for start, stop, numbers in spans]
        for kind in sorted({(head.blocks, head.pooling) for head in self.heads}):
            indices = [index for index, head in enumerate(self.heads) if (head.blocks, head.pooling) == kind]
            own = [part for part in range(len(spans) - 1) if spans[part][0] <= indices[0] < spans[part][1]]
            own.sort(key=lambda part: self._segments[part].columns.start)
            widths = [spans[part][2] for part in own]
            weights = torch.randn(sum(widths), self.num_classes, generator=generator).mul_(0.01).split(widths)
            for part, weight in zip(own, weights, strict=True):
                found[part][[index - spans[part][0] for index in indices]] = weight.T
        return found

    def _rows(self, segment: Segment) -> slice:
        """Of the weights of all heads that train, those of the heads that see a segment."""
        start, stop = (bisect_left(self.training, index) for index in (segment.heads.start, segment.heads.stop))
        return slice(start * self.num_classes, stop * self.num_classes)

    def logits(self, x: Tensor, averaged: bool = False) -> Tensor:
        """[heads that train, C, B].

        Args:
            x: [B, W] inputs.
            averaged: by the sum of the weights since heads left last, or since the beginning; its largest is that of
                their mean.
        """
        found = x.new_zeros(len(self._rates), len(x))
        for segment, weight in zip(self._segments, self._sums if averaged else self._weights, strict=True):
            found[self._rows(segment)].addmm_(weight, x[:, segment.columns].T)
        return found.unflatten(0, (len(self.training), self.num_classes))

    def step(self, inputs: Tensor, rows: Tensor, labels: Tensor) -> None:
        """One step of all heads that have not left.

        Args:
            inputs: [S, W] of all samples.
            rows: [B] int64, the samples of this step.
            labels: [S] int64 of all samples.
        """
        factor = 0.5 * (1 + np.cos(np.pi * self.done / self.total_steps))
        x = torch.index_select(inputs, 0, rows, out=self._batch[: len(rows)])
        error = self.logits(x).softmax(dim=1).sub_(self._one_hot[:, labels[rows]])
        error = hardshrink(error.flatten(0, 1), _NO_ERROR)
        for index, segment in enumerate(self._segments):
            own, weight, velocity = self._rows(segment), self._weights[index], self._velocity[index]
            velocity.addmm_(error[own], x[:, segment.columns], beta=self.momentum, alpha=1 / len(rows))
            if self.done % _CLEANED_EVERY == 0:
                self._velocity[index] = velocity = hardshrink(velocity, _NO_VELOCITY)
            weight.addcmul_(velocity, self._rates[own], value=-factor)
            if self._sums and self.done % _SUMMED_EVERY == 0:
                self._sums[index].add_(weight)
        self.done += 1

    def predict(self, x: Tensor, averaged: bool = False) -> Tensor:
        """[heads that train, B] int64 classes of inputs [B, W]; ``averaged``: by the mean of the weights."""
        return self.logits(x, averaged).argmax(dim=1)

    def keep(self, heads: Collection[Head], averages: bool) -> None:
        """Only these heads go on.

        Args:
            heads: some that train.
            averages: means of the weights begin anew; else none are kept any longer.
        """
        stay = torch.tensor([self.heads[index] in heads for index in self.training], device=self._rates.device)
        stay = stay.repeat_interleave(self.num_classes)
        for parts in (self._weights, self._velocity):
            parts[:] = [part[stay[self._rows(of)]] for part, of in zip(parts, self._segments, strict=True)]
        self._rates = self._rates[stay]
        self.training = tuple(index for index in self.training if self.heads[index] in heads)
        self._sums = [torch.zeros_like(weight) for weight in self._weights] if averages else []
