"""What is done to features before they are compared: nothing, standardising, or whitening, fitted on training samples.

A trained encoder's features and a baseline's numbers are of different scales and correlate differently, so a probe that
treats one of them alone compares treatments and not features. Every probe therefore scores each feature under every
treatment, and what is reported compares best against best.

``whitened`` is PCA whitening of the standardised features (Kessy, Lewin and Strimmer 2018, "PCA-cor"): the result does
not depend on units. Components below a share of the largest eigenvalue are left out and at most 512 are kept: the share
is 0.1, 0.01 or 0.001, whichever tells training samples apart best by their nearest neighbours (each sample left out of
its own). The eigenvalues are shrunk towards their mean as OAS says (Chen et al. 2010), which matters where samples are
few. Of very wide features (more than 2,048 numbers) at most 2,048 samples fit it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from foundation.probes.features import FeatureSet

Treatment: TypeAlias = Literal["as is", "standardised", "whitened"]
"""What is done to features before they are compared."""

TREATMENTS: tuple[Treatment, ...] = get_args(Treatment)

EIGENVALUE_FLOORS = (1e-3, 1e-2, 1e-1)
"""Components with a smaller share of the largest eigenvalue are left out: noise that whitening would raise to the rank
of the signal. Without labels to choose by, the first counts."""

MOST_SIDE = 2048
"""Whitening of features that are wider than this is fitted on at most so many training samples, spread evenly: one
eigendecomposition of at most 2,048 x 2,048."""

CHOICE_SAMPLES = 2000
"""Training samples by which the floor is chosen, spread evenly."""

CHOICE_NEIGHBOURS = 20

MOST_COMPONENTS = 512
"""Most components that whitening keeps."""

_CONSTANT = 1e-6
"""A number whose deviation is a smaller share of its largest size does not vary: it becomes 0."""

_ROWS = 8192


@dataclass(frozen=True)
class Fitted:
    """A treatment with what it learnt of the training samples.

    Attributes:
        mean: [D] that is taken off; None: features stay as they are.
        matrix: [D] factors, or [D, K] for K components of unit variance.
    """

    mean: Tensor | None
    matrix: Tensor | None

    def __call__(self, features: Tensor) -> Tensor:
        """[S, D] to [S, D], or to [S, K] whitened."""
        if self.mean is None or self.matrix is None:
            return features
        if self.matrix.ndim == 1:
            return (features - self.mean) * self.matrix
        found = features.new_empty(len(features), self.matrix.shape[1])
        for start in range(0, len(features), _ROWS):
            rows = slice(start, start + _ROWS)
            torch.mm(features[rows] - self.mean, self.matrix, out=found[rows])
        return found


def fit(train: Tensor, treatment: Treatment, labels: Tensor | None = None) -> Fitted:
    """Learn a treatment.

    Args:
        train: [S, D] float32, features of the training samples.
        treatment: which.
        labels: [S] int64; choose how many components whitening keeps.

    Returns:
        To be applied to any features [n, D].
    """
    if treatment == "as is":
        return Fitted(None, None)
    mean = train.mean(dim=0)
    deviation = train.std(dim=0, correction=0)
    varies = deviation > _CONSTANT * train.abs().amax(dim=0)
    factors = torch.where(varies, 1 / deviation.clamp(min=torch.finfo(train.dtype).tiny), 0.0)
    if treatment == "standardised" or not varies.any():
        return Fitted(mean, factors)
    x = (train - mean) * factors
    matrix, counts = _whitening(x)
    count = counts[0] if labels is None else _best_count(x, matrix, counts, labels)
    return Fitted(mean, factors[:, None] * matrix[:, :count])


def _whitening(x: Tensor) -> tuple[Tensor, list[int]]:
    """[D, K] that takes standardised samples [S, D] to K uncorrelated components of unit variance, largest first, and
    how many of them each floor keeps."""
    import scipy.linalg

    if x.shape[1] > MOST_SIDE:
        x = x[_spread(len(x), MOST_SIDE)]
    samples, width = x.shape
    # The smaller of both Gram matrices has the same eigenvalues.
    gram = (x.T @ x if width <= samples else x @ x.T) / samples
    total, squares, side = float(gram.trace()), float(gram.square().sum()), len(gram)
    found, columns = scipy.linalg.eigh(gram.numpy(), subset_by_index=(max(0, side - MOST_COMPONENTS), side - 1))
    values, vectors = (torch.from_numpy(part.copy()).flip(-1) for part in (found, columns))
    counts = [int((values > floor * values[0]).sum().clamp(min=1)) for floor in EIGENVALUE_FLOORS]
    kept, vectors = values[: counts[0]], vectors[:, : counts[0]]
    if width > samples:
        vectors = x.T @ vectors / (samples * kept).sqrt()
    share = _shrinkage(total, squares, samples, width)
    return vectors * ((1 - share) * kept + share * total / width).rsqrt(), counts


def _spread(count: int, most: int) -> Tensor:
    """At most so many of ``count`` rows, spread evenly over them."""
    return torch.arange(count) if count <= most else torch.linspace(0, count - 1, most, dtype=torch.float64).long()


def _shrinkage(total: float, squares: float, samples: int, width: int) -> float:
    """Share of the mean eigenvalue in each, from the sums of the eigenvalues and of their squares."""
    over = (samples + 1 - 2 / width) * (squares - total**2 / width)
    return 1.0 if over <= 0 else min(1.0, ((1 - 2 / width) * squares + total**2) / over)


def _best_count(x: Tensor, matrix: Tensor, counts: Sequence[int], labels: Tensor) -> int:
    """Of some numbers of components the one that tells the training samples apart best, each left out of its own
    neighbours."""
    rows = _spread(len(x), CHOICE_SAMPLES)
    neighbours = min(CHOICE_NEIGHBOURS, len(rows) - 1)
    if neighbours < 1:
        return counts[0]
    whitened, known = x[rows] @ matrix, labels[rows]
    votes = torch.empty(len(rows), int(known.max()) + 1)

    def right(count: int) -> float:
        unit = torch.nn.functional.normalize(whitened[:, :count], dim=1)
        near = (unit @ unit.T).fill_diagonal_(-torch.inf).topk(neighbours)
        votes.zero_().scatter_add_(1, known[near.indices], (near.values / 0.07).exp())
        return float((votes.argmax(dim=1) == known).float().mean())

    return max(dict.fromkeys(counts), key=right)


def treated(
    treatment: Treatment, train: FeatureSet, *others: FeatureSet, blocks: int | None = None, patches: bool = True
) -> tuple[FeatureSet, ...]:
    """``train`` and other sets after a treatment that is fitted on ``train``, layer by layer.

    Args:
        treatment: which.
        train: fits it.
        others: test samples, samples kept back.
        blocks: only the class tokens of the last so many blocks are wanted; None: all.
        patches: the mean patch tokens are wanted; else they stay as they are.

    Returns:
        The sets in this order.
    """
    return apply(fit_layers(treatment, train, blocks=blocks, patches=patches), train, *others)


def fit_layers(
    treatment: Treatment, train: FeatureSet, *, blocks: int | None = None, patches: bool = True
) -> tuple[Fitted, ...]:
    """A fitted treatment for each class token of the last ``blocks`` blocks, then one for the mean patch token."""
    layers = train.cls if blocks is None else train.cls[-blocks:]
    fitted = [fit(layer.float(), treatment, train.labels) for layer in layers]
    return (*fitted, fit(train.patches.float(), treatment, train.labels) if patches else Fitted(None, None))


def apply(fitted: Sequence[Callable[[Tensor], Tensor]], *sets: FeatureSet) -> tuple[FeatureSet, ...]:
    """Feature sets after :func:`fit_layers`; class tokens of earlier blocks leave."""
    layers, pooled = fitted[:-1], fitted[-1]
    return tuple(
        replace(
            features,
            cls=tuple(f(layer.float()) for f, layer in zip(layers, features.cls[-len(layers) :], strict=True)),
            patches=pooled(features.patches.float()),
        )
        for features in sets
    )
