"""Linear classification of frozen features with a grid of heads trained at once (Oquab et al. 2023, DINOv2).

Every head is a learning rate and a kind of input: the class tokens of the last n blocks side by side, with or without
the mean patch token. All heads of one kind are one matrix, so a step of all learning rates costs one product.
The gradient of softmax cross-entropy is written out: there is nothing else to differentiate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from foundation.errors import UserError
from foundation.probes.features import FeatureSet, check_finite
from foundation.probes.results import progress
from foundation.probes.scores import score
from foundation.probes.treatments import TREATMENTS, Treatment, apply, fit_layers

LEARNING_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 2e-1, 5e-1, 1.0)
"""DINOv2's 13 for a batch of 256, and three above them, which narrow encoders want."""

EPOCHS = 50
"""Passes over a training split of some size."""

STEPS = 2000
"""Fewer steps than this leave the heads of a small split far from fitted."""

_NO_ERROR = 1e-30
_NO_VELOCITY = 1e-25
_CLEANED_EVERY = 100
"""Numbers below 1e-38 are denormal, and processors compute them up to a hundred times slower. Heads that are fitted
have many: errors of samples that they are sure of, and velocities that decay by a tenth in each step. Both are set to 0
long before, where they no longer change a bit of any weight, whatever the thread. (``torch.set_flush_denormal`` reaches
the calling thread only.)"""

VALIDATION_LIMIT = 10_000
"""Most samples of the training split that are kept back to choose a head."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The grid and how long its heads train."""

    learning_rates: tuple[float, ...] = LEARNING_RATES
    """For a batch of 256; scaled by batch size / 256."""
    blocks: tuple[int, ...] = (1, 4)
    """Numbers of last blocks whose class tokens are put side by side."""
    pooling: tuple[bool, ...] = (False, True)
    """Without and with the mean patch token of the last block."""
    epochs: int | None = None
    """Passes over the training split; None: 50, or on a small split as many as make 2,000 steps."""
    batch_size: int = 128
    """Samples per step."""
    momentum: float = 0.9
    """Of stochastic gradient descent; there is no weight decay."""
    treatment: Treatment = "as is"
    """What is done to the features first, fitted on the training split: nothing, ``standardised``, PCA-``whitened``."""
    select_on: Literal["validation", "test"] = "validation"
    """Where the head to report is chosen. ``test`` reports the best of all heads on the test split, as DINOv2 does;
    the number is then optimistic."""
    validation_share: float = 0.1
    """Share of the training split kept back to choose the head (at most 10,000 samples)."""
    seed: int = 0
    """Of the split, the weights and the order."""

    def __post_init__(self) -> None:
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise UserError(f"learning_rates must be positive numbers, got {list(self.learning_rates)}")
        if not self.blocks or min(self.blocks) < 1:
            raise UserError(f"blocks must be numbers of at least 1, got {list(self.blocks)}")
        if self.treatment not in TREATMENTS:
            raise UserError(f"treatment must be one of {', '.join(TREATMENTS)}, got {self.treatment!r}")
        if not self.pooling:
            raise UserError("pooling is empty: name at least one of with and without")
        if (self.epochs is not None and self.epochs < 1) or self.batch_size < 1:
            raise UserError(f"epochs and batch_size must be at least 1, got {self.epochs} and {self.batch_size}")
        if not 0 < self.validation_share < 1:
            raise UserError(f"validation_share must lie between 0 and 1, got {self.validation_share}")


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


@dataclass(frozen=True)
class LinearResult:
    """What the grid found.

    Attributes:
        chosen: the head that is reported.
        top1: its accuracy on the test split, in [0, 1].
        balanced: mean over the classes of the test split of the share of their samples that is right.
        interval: 95 % interval of ``top1``.
        predictions: [Q] int64, of the chosen head.
        heads: all heads in order of the grid.
        validation: accuracy of each head on the samples kept back; None when heads were chosen on the test split.
        test: accuracy of each head on the test split.
    """

    chosen: Head
    top1: float
    balanced: float
    interval: tuple[float, float]
    predictions: Tensor
    heads: tuple[Head, ...]
    validation: tuple[float, ...] | None
    test: tuple[float, ...]


def inputs(features: FeatureSet, blocks: int, pooling: bool) -> Tensor:
    """[S, blocks x D (+ D)] input of one kind of head."""
    parts = list(features.cls[-blocks:])
    return torch.cat([*parts, features.patches] if pooling else parts, dim=1)


class Grid:
    """All heads of a grid, kind by kind.

    Args:
        settings: the grid.
        kinds: (blocks, pooling) pairs.
        widths: width of the input of each kind.
        num_classes: C.
        total_steps: of the cosine that takes every learning rate to 0.
        device: where the weights lie.
    """

    def __init__(
        self,
        settings: Settings,
        kinds: Sequence[tuple[int, bool]],
        widths: Sequence[int],
        num_classes: int,
        total_steps: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings, self.kinds, self.num_classes = settings, tuple(kinds), num_classes
        self.total_steps, self.done = total_steps, 0
        self.heads = tuple(Head(rate, *kind) for kind in kinds for rate in settings.learning_rates)
        count = len(settings.learning_rates)
        generator = torch.Generator().manual_seed(settings.seed)
        scaled = torch.tensor(settings.learning_rates) * settings.batch_size / 256
        self._rates = scaled.repeat_interleave(num_classes).to(device)  # [heads x C]
        self._weights, self._velocity = [], []
        for width in widths:
            # The last row is the bias, which starts at zero.
            weight = torch.zeros(width + 1, count * num_classes)
            weight[:-1] = torch.randn(width, num_classes, generator=generator).mul_(0.01).repeat(1, count)
            self._weights.append(weight.to(device))
            self._velocity.append(torch.zeros_like(self._weights[-1]))

    def logits(self, kind: int, x: Tensor) -> Tensor:
        """[B, heads of this kind, C] for x [B, width]."""
        weight = self._weights[kind]
        return torch.addmm(weight[-1], x, weight[:-1]).unflatten(1, (-1, self.num_classes))

    def step(self, xs: Sequence[Tensor], labels: Tensor) -> None:
        """One step of all heads; xs: an input [B, width] for each kind, labels [B]."""
        factor = 0.5 * (1 + np.cos(np.pi * self.done / self.total_steps))
        for kind, x in enumerate(xs):
            error = self.logits(kind, x).softmax(dim=2)
            error[torch.arange(len(x), device=x.device), :, labels] -= 1
            error = hardshrink(error.flatten(1).div_(len(x)), _NO_ERROR)
            velocity, momentum = self._velocity[kind], self.settings.momentum
            velocity[:-1].addmm_(x.T, error, beta=momentum)
            velocity[-1].mul_(momentum).add_(error.sum(dim=0))
            if self.done % _CLEANED_EVERY == 0:
                self._velocity[kind] = velocity = hardshrink(velocity, _NO_VELOCITY)
            self._weights[kind].addcmul_(velocity, self._rates[None], value=-factor)
        self.done += 1

    def predict(self, features: FeatureSet, device: torch.device | str, block: int = 4096) -> Tensor:
        """[heads, S] int64 predictions."""
        predictions = []
        for kind, (blocks, pooling) in enumerate(self.kinds):
            rows = [
                self.logits(kind, inputs(features_block, blocks, pooling).to(device)).argmax(dim=2).cpu()
                for features_block in _blocks(features, block)
            ]
            predictions.append(torch.cat(rows).T)
        return torch.cat(predictions)


def _blocks(features: FeatureSet, block: int) -> list[FeatureSet]:
    return [features.take(rows) for rows in torch.arange(len(features)).split(block)]


def split(count: int, share: float, seed: int, groups: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows kept back, disjoint and seeded.

    Args:
        count: of samples.
        share: of them that is kept back.
        seed: of the draw.
        groups: [count] int64; a group is kept back whole or not at all. Empty or None: each sample by itself.

    Raises:
        UserError: when there are too few samples, or groups, to keep any back.
    """
    kept = min(max(1, round(count * share)), VALIDATION_LIMIT)
    if count - kept < 1:
        raise UserError(f"{count} labelled samples are too few to keep some back: give more, or --select-on test")
    generator = torch.Generator().manual_seed(seed)
    if groups is None or not len(groups):
        order = torch.randperm(count, generator=generator)
        return order[kept:].sort().values, order[:kept].sort().values
    sizes = torch.bincount(groups)
    there = sizes.nonzero().flatten()
    if len(there) < 2:
        raise UserError("--group puts all samples into one group: none can be kept back to choose a head")
    order = there[torch.randperm(len(there), generator=generator)]
    # Whole groups until there are enough samples, and never all of them.
    enough = int((sizes[order].cumsum(dim=0) < kept).sum()) + 1
    held = torch.isin(groups, order[: min(enough, len(order) - 1)])
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def fit(
    train: FeatureSet,
    test: FeatureSet,
    settings: Settings,
    *,
    device: torch.device | str = "cpu",
    augmented: Callable[[int], FeatureSet] | None = None,
    what: str | None = None,
) -> LinearResult:
    """Train the grid and report the head that does best on samples kept back.

    Args:
        train: features of the training split; all samples labelled.
        test: features of the test split; all samples labelled.
        settings: the grid.
        device: where the heads train.
        augmented: features of the training split for an epoch, from freshly augmented views (end to end), in the same
            order as ``train``; None: ``train`` in every epoch.
        what: shows a progress bar of this name.

    Raises:
        UserError: for features that are not finite, too few blocks, or too few samples.
    """
    most = max(settings.blocks)
    if most > len(train.cls):
        raise UserError(f"blocks asks for the last {most} blocks, but features of {len(train.cls)} were extracted")
    for name, part in (("train", train), ("test", test)):
        for layer in (*part.cls, part.patches):
            check_finite(layer, name)
    num_classes = int(max(train.labels.max(), test.labels.max())) + 1
    wanted = train.labels
    rows, held = torch.arange(len(train)), None
    if settings.select_on == "validation":
        rows, kept_back = split(len(train), settings.validation_share, settings.seed, train.groups)
        held = train.take(kept_back)
    fitted = fit_layers(settings.treatment, train.take(rows), blocks=most, patches=any(settings.pooling))
    held, test = (None if held is None else apply(fitted, held)[0]), apply(fitted, test)[0]
    kinds = [(blocks, pooling) for blocks in settings.blocks for pooling in settings.pooling]
    widths = [inputs(test.take(torch.zeros(1, dtype=torch.int64)), *kind).shape[1] for kind in kinds]
    steps_per_epoch = -(-len(rows) // settings.batch_size)
    count = settings.epochs or max(EPOCHS, -(-STEPS // steps_per_epoch))
    grid = Grid(settings, kinds, widths, num_classes, count * steps_per_epoch, device)
    generator = torch.Generator().manual_seed(settings.seed + 1)
    epochs = range(count)
    current = None
    with torch.inference_mode():
        for epoch in progress(epochs, count, what, "epoch") if what else epochs:
            if current is None or augmented is not None:
                source = train if augmented is None else augmented(epoch)
                if len(source) != len(train):
                    raise UserError(f"epoch {epoch} of the augmented data has {len(source)} samples, not {len(train)}")
                (current,) = apply(fitted, source.take(rows))
                tensors = [inputs(current, *kind).to(device) for kind in kinds]
                labels = wanted[rows].to(device)  # of ``train``: freshly augmented features have the data's own labels
            for batch in torch.randperm(len(rows), generator=generator).to(device).split(settings.batch_size):
                grid.step([tensor[batch] for tensor in tensors], labels[batch])
        on_test = grid.predict(test, device)
        on_held = None if held is None else grid.predict(held, device)
    test_scores = (on_test == test.labels).double().mean(dim=1).tolist()
    held_scores = None if held is None or on_held is None else (on_held == held.labels).double().mean(dim=1).tolist()
    best = int(np.argmax(test_scores if held_scores is None else held_scores))
    scored = score(on_test[best], test.labels)
    return LinearResult(
        chosen=grid.heads[best],
        top1=scored.top1,
        balanced=scored.balanced,
        interval=scored.interval,
        predictions=on_test[best].clone(),
        heads=grid.heads,
        validation=None if held_scores is None else tuple(held_scores),
        test=tuple(test_scores),
    )
