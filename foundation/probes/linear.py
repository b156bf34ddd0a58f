"""Linear classification of frozen features with a grid of heads trained at once (Oquab et al. 2023, DINOv2).

Every head is a learning rate and a kind of input: the class tokens of the last n blocks side by side, with or without
the mean patch token. How they train together, and why most of them leave early, is said in
:mod:`foundation.probes.grid`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from foundation.errors import UserError
from foundation.probes.features import FeatureSet, check_finite
from foundation.probes.grid import Grid, Head, Segment, contenders, rungs
from foundation.probes.results import progress
from foundation.probes.scores import score
from foundation.probes.treatments import TREATMENTS, Treatment, apply, fit_layers

LEARNING_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 2e-1, 5e-1, 1.0)
"""DINOv2's 13 for a batch of 256, and three above them, which narrow encoders want."""

EPOCHS = 50
"""Passes over a training split of some size."""

STEPS = 2000
"""Fewer steps than this leave the heads of a small split far from fitted."""

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
    prune: bool = True
    """Heads that cannot win leave early, and an eighth of the grid trains to the end; off: all do, which takes three
    times as long."""

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
class LinearResult:
    """What the grid found.

    Attributes:
        chosen: the head that is reported.
        top1: its accuracy on the test split, in [0, 1].
        balanced: mean over the classes of the test split of the share of their samples that is right.
        interval: 95 % interval of ``top1``; None where all test samples belong together.
        predictions: [Q] int64, of the chosen head.
        heads: all heads in order of the grid.
        steps: that each of them took.
        validation: accuracy of each head on the samples kept back, at the end or when it left; None when heads were
            chosen on the test split.
        test: accuracy of each head on the test split; None for those that left, unless they were chosen there.
    """

    chosen: Head
    top1: float
    balanced: float
    interval: tuple[float, float] | None
    predictions: Tensor
    heads: tuple[Head, ...]
    steps: tuple[int, ...]
    validation: tuple[float, ...] | None
    test: tuple[float | None, ...]


@dataclass(frozen=True)
class Inputs:
    """One matrix with what all heads see.

    Attributes:
        kinds: of heads, (blocks, pooling) pairs.
        widths: of the class tokens of the last blocks, and of the mean patch token (0: nobody sees it).
        bases: of :func:`basis`, for each kind. What they give stands behind the tokens, or alone where all have one.
        device: where the matrix lies.
    """

    kinds: tuple[tuple[int, bool], ...]
    widths: tuple[int, ...]
    bases: tuple[Tensor | None, ...]
    device: torch.device | str

    @classmethod
    def of(
        cls, settings: Settings, features: FeatureSet, num_classes: int, passes: int | None, device: torch.device | str
    ) -> Inputs:
        """How the training samples' features become inputs; ``passes`` over them, None: they will be others."""
        blocks = sorted(set(settings.blocks))
        # In this order all kinds that see a token stand beside each other.
        kinds = [(count, False) for count in blocks if False in settings.pooling]
        kinds += [(count, True) for count in reversed(blocks) if True in settings.pooling]
        widths = [token.shape[1] for token in features.cls[-blocks[-1] :]]
        widths.append(features.patches.shape[1] if True in settings.pooling else 0)
        plain = cls(tuple(kinds), tuple(widths), (None,) * len(kinds), device)
        if passes is None:
            return plain
        x, heads = plain(features), num_classes * len(settings.learning_rates)
        return replace(plain, bases=tuple(basis(x[:, plain._span(*kind)], heads, passes) for kind in kinds))

    def _span(self, blocks: int, pooling: bool) -> slice:
        """Columns that a kind sees, where it has no basis."""
        tokens = self.widths[:-1]
        return slice(sum(tokens[: len(tokens) - blocks]), sum(tokens) + pooling * self.widths[-1])

    def __call__(self, features: FeatureSet, rows: slice = slice(None)) -> Tensor:
        """[S, W] inputs; the last column is 1."""
        tokens = [*features.cls[1 - len(self.widths) :], *[features.patches] * (self.widths[-1] > 0)]
        x = torch.cat([token[rows] for token in tokens], dim=1).to(self.device)
        reduced = zip(self.kinds, self.bases, strict=True)
        parts = [x[:, self._span(*kind)] @ own for kind, own in reduced if own is not None]
        return torch.cat([x] * self._plain() + [*parts, x.new_ones(len(x), 1)], dim=1)

    def _plain(self) -> bool:
        return any(own is None for own in self.bases)

    def segments(self, rates: int) -> list[Segment]:
        """Columns, and who sees them: of each kind as many heads as there are learning rates."""
        counts = sorted({0, *(blocks for blocks, _ in self.kinds)})
        end = self._span(0, False).stop
        seen = [(slice(end, end + self.widths[-1]), [pooling for _, pooling in self.kinds])]
        for fewer, count in pairwise(counts):
            columns = slice(self._span(count, False).start, self._span(fewer, False).start)
            seen.append((columns, [blocks >= count for blocks, _ in self.kinds]))
        found, end = [], sum(self.widths) if self._plain() else 0
        for columns, sees in seen:
            indices = [index for index, own in enumerate(self.bases) if own is None and sees[index]]
            found += [Segment(columns, slice(index * rates, (index + 1) * rates)) for index in indices]
        for index, own in enumerate(self.bases):
            if own is not None:
                found.append(Segment(slice(end, end + own.shape[1]), slice(index * rates, (index + 1) * rates)))
                end += own.shape[1]
        return merged(found)


def merged(segments: Sequence[Segment]) -> list[Segment]:
    """Segments of the same columns whose heads follow each other are one."""
    found: list[Segment] = []
    for segment in segments:
        last = found[-1] if found else None
        if last is not None and last.columns == segment.columns and last.heads.stop == segment.heads.start:
            found[-1] = Segment(last.columns, slice(last.heads.start, segment.heads.stop))
        else:
            found.append(segment)
    return found


def basis(x: Tensor, heads: int, passes: int) -> Tensor | None:
    """Directions in which heads can learn anything from inputs, where there are fewer than numbers.

    A gradient is a sum of inputs, so no head ever leaves the span of the training samples. In coordinates of that span
    it takes the same steps, and has as many weights as there are samples.

    Args:
        x: [S, W] training inputs of one kind.
        heads: of this kind, times classes.
        passes: over the training split.

    Returns:
        [W, S] orthonormal columns, or None where finding them takes more time than they save.
    """
    samples, width = x.shape
    # Householder's 4 W S S operations, against 4 S (W - S) for each head, class and pass; most heads leave early.
    if width * samples > 0.3 * passes * heads * (width - samples):
        return None
    return torch.linalg.qr(x.T).Q


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
    rows, held = torch.arange(len(train)), None
    if settings.select_on == "validation":
        rows, kept_back = split(len(train), settings.validation_share, settings.seed, train.groups)
        held = train.take(kept_back)
    fitted = fit_layers(settings.treatment, train.take(rows), blocks=most, patches=any(settings.pooling))
    held, test = (None if held is None else apply(fitted, held)[0]), apply(fitted, test)[0]

    def of_pass(number: int) -> FeatureSet:
        source = train if augmented is None else augmented(number)
        if len(source) != len(train):
            raise UserError(f"epoch {number} of the augmented data has {len(source)} samples, not {len(train)}")
        return apply(fitted, source.take(rows))[0]

    steps_per_pass = -(-len(rows) // settings.batch_size)
    passes = settings.epochs or max(EPOCHS, -(-STEPS // steps_per_pass))
    num_classes = int(max(train.labels.max(), test.labels.max())) + 1
    first = of_pass(0)
    inputs = Inputs.of(settings, first, num_classes, passes if augmented is None else None, device)
    x = inputs(first)
    heads = [Head(rate, *kind) for kind in inputs.kinds for rate in settings.learning_rates]
    total_steps = passes * steps_per_pass
    leaving = rungs(len(heads), total_steps) if settings.prune else {}
    grid = Grid(
        heads,
        inputs.segments(len(settings.learning_rates)),
        x.shape[1],
        num_classes,
        batch_size=settings.batch_size,
        momentum=settings.momentum,
        total_steps=total_steps,
        seed=settings.seed,
        averages=bool(leaving),
        device=device,
    )
    # Labels are those of ``train``: freshly augmented features have the data's own.
    labels = train.labels[rows].to(device)
    judged, steps = [0.0] * len(grid.heads), [0] * len(grid.heads)

    def judge(averaged: bool = False) -> None:
        part = test if held is None else held
        right = (predict(grid, inputs, part, averaged) == part.labels).double().mean(dim=1).tolist()
        for index, accuracy in zip(grid.training, right, strict=True):
            judged[index], steps[index] = accuracy, grid.done

    generator = torch.Generator().manual_seed(settings.seed + 1)
    with torch.inference_mode():
        for number in progress(range(passes), passes, what, "epoch") if what else range(passes):
            if augmented is not None and number:
                x = inputs(of_pass(number))
            for batch in torch.randperm(len(rows), generator=generator).to(device).split(settings.batch_size):
                grid.step(x, batch, labels)
                if grid.done in leaving:
                    judge(averaged=True)
                    accuracies = {grid.heads[index]: judged[index] for index in grid.training}
                    grid.keep(contenders(accuracies, leaving[grid.done]), averages=grid.done < max(leaving))
        judge()
        on_test = predict(grid, inputs, test)
    # Of equals the head that sees the fewest numbers, and of those the smallest rate.
    sizes = [(head.blocks, head.pooling, head.learning_rate) for head in heads]
    best = min(grid.training, key=lambda index: (-judged[index], *sizes[index]))
    of_heads = dict(zip(grid.training, (on_test == test.labels).double().mean(dim=1).tolist(), strict=True))
    predictions = on_test[grid.training.index(best)].clone()
    scored = score(predictions, test.labels, test.groups)
    return LinearResult(
        chosen=grid.heads[best],
        top1=scored.top1,
        balanced=scored.balanced,
        interval=scored.interval,
        predictions=predictions,
        heads=grid.heads,
        steps=tuple(steps),
        validation=None if held is None else tuple(judged),
        test=tuple(judged) if held is None else tuple(map(of_heads.get, range(len(grid.heads)))),
    )


def predict(grid: Grid, inputs: Inputs, features: FeatureSet, averaged: bool = False, block: int = 4096) -> Tensor:
    """[heads that train, S] int64 classes on the CPU, in blocks of bounded memory; see :meth:`Grid.predict`."""
    starts = range(0, len(features), block)
    found = [grid.predict(inputs(features, slice(start, start + block)), averaged).cpu() for start in starts]
    return torch.cat(found, dim=1)
