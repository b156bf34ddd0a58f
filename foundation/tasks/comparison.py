"""Models side by side on the same test samples: which differences are none?

Where a figure is a mean over test samples, the difference of two models is too: samples are drawn anew with replacement
10,000 times, the same ones for both models, and the middle 95 % of the differences are its interval (Efron and
Tibshirani 1993; Koehn 2004). The p value is that of the randomisation test (Fisher 1935; Noreen 1989): were the models
alike, the sign of each sample's difference would be a coin's. The bootstrap alone would call six samples a proof: the
test is exact for any number. Samples that belong together, such as windows of one subject, are drawn, and change
their sign, as groups. Of more than two models, the p values of all pairs in one figure are corrected after Holm
(1979); over figures nothing is.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundation.errors import UserError
from foundation.tasks.base import Score
from foundation.tasks.results import Result

RESAMPLES = 10_000
LEVEL = 0.05
FEW_GROUPS = 10
_NUMBERS = 1 << 22
"""Draws that are held at once."""


@dataclass(frozen=True)
class Difference:
    """Of two models in one figure.

    Attributes:
        one: place of the first model.
        two: place of the second.
        value: second less first.
        interval: 95 %.
        p: two-sided, of no difference, corrected over the pairs of this figure.
        n: samples that both have.
        groups: that were drawn; None: each sample by itself.
        better: place of the model that is better; None: no difference, or neither direction is better.
    """

    one: int
    two: int
    value: float
    interval: tuple[float, float]
    p: float
    n: int
    groups: int | None
    better: int | None

    @property
    def none(self) -> bool:
        """Whether the samples leave it open that there is no difference."""
        return self.p > LEVEL or self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True)
class Figure:
    """One metric of one task.

    Attributes:
        task: its name.
        metric: its name.
        scores: of each model; None where it has none.
        differences: of all pairs that can be compared.
    """

    task: str
    metric: str
    scores: tuple[Score | None, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Comparison:
    """All of it.

    Attributes:
        names: of the models.
        figures: in the order of the first model's tasks.
        warnings: what a person should know first.
    """

    names: tuple[str, ...]
    figures: tuple[Figure, ...]
    warnings: tuple[str, ...]


def compare(
    results: Sequence[Result], *, resamples: int = RESAMPLES, seed: int = 0, groups: Mapping[str, Any] | None = None
) -> Comparison:
    """Compare models.

    Args:
        results: two or more.
        resamples: draws of the bootstrap.
        seed: of the draws.
        groups: of the test samples, by key; None: those of the results.

    Raises:
        UserError: fewer than two, or no figure that two have.
    """
    if len(results) < 2:
        raise UserError(f"a comparison needs two models or more, got {len(results)}")
    if len(kinds := dict.fromkeys(one.modality for one in results)) > 1:
        raise UserError(f"these are models of {' and of '.join(kinds)}, which share no test samples")
    numberings = [groups] if groups is not None else [one.groups for one in results if one.groups]
    by_model = [{(one.task, one.score.metric): one.score for one in result.scores} for result in results]
    figures, told = [], []
    for task, metric in dict.fromkeys(itertools.chain(*by_model)):
        scores = tuple(of.get((task, metric)) for of in by_model)
        if sum(score is not None for score in scores) > 1:
            try:
                found = differences(scores, resamples=resamples, seed=seed, groups=numberings)
            except UserError as error:
                if groups is not None:
                    raise
                found = ()
                told.append(f"{task} {metric} is not compared: {error}")
            figures.append(Figure(task, metric, scores, found))
    if not figures:
        raise UserError("these models have no figure in common: evaluate them by the same tasks")
    return Comparison(_named(results), tuple(figures), (*_warned(results, figures), *_unlike(results, groups), *told))


def differences(
    scores: Sequence[Score | None],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    groups: Sequence[Mapping[str, Any]] = (),
) -> tuple[Difference, ...]:
    """Of all pairs of models whose scores are means over samples.

    Args:
        scores: of one figure, by model; None where a model has none.
        resamples: as for :func:`compare`.
        seed: likewise.
        groups: of the samples, by key; of several numberings the first that knows all samples of a pair counts, because
            numbers of two of them mean different groups.

    Raises:
        UserError: there are groups, and none say anything of some samples.
    """
    found = []
    for one, two in itertools.combinations(range(len(scores)), 2):
        first, second = scores[one], scores[two]
        if first is None or second is None:
            continue
        paired = _paired(first, second)
        if paired is None:
            continue
        each, keys = paired
        sums, counts = _grouped(each, keys, groups)
        value = float(sums.sum() / counts.sum())
        drawn = bootstrap(sums, counts, resamples, seed)
        low, high = (float(edge) for edge in np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2]))
        p = randomisation(sums, resamples, seed)
        better = two if (value > 0) == (first.better == "more") else one
        found.append(
            Difference(
                one, two, value, (low, high), p, len(each), len(sums) if groups else None,
                better if first.better is not None else None,
            )
        )  # fmt: skip
    corrected = holm([one.p for one in found])
    return tuple(_decided(one, p) for one, p in zip(found, corrected, strict=True))


def _decided(one: Difference, p: float) -> Difference:
    """With its corrected p value; who is better only where there is a difference."""
    made = dataclasses.replace(one, p=p)
    return dataclasses.replace(made, better=None) if made.none else made


def bootstrap(
    sums: NDArray[np.float64], counts: NDArray[np.float64], resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """[resamples] means of values whose groups are drawn with replacement.

    Args:
        sums: [G] of the values of each group.
        counts: [G] of its samples.
        resamples: draws.
        seed: of them.
    """
    generator, groups = np.random.default_rng(seed), len(sums)
    found, step = np.empty(resamples), max(1, _NUMBERS // groups)
    for start in range(0, resamples, step):
        rows = generator.integers(0, groups, (min(step, resamples - start), groups))
        found[start : start + len(rows)] = sums[rows].sum(axis=1) / counts[rows].sum(axis=1)
    return found


def randomisation(sums: NDArray[np.float64], resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Two-sided p value of no difference: how often sums [G] whose signs are drawn come out as far from 0.

    All sign patterns are looked at where they are no more than the draws; else the signs as they are count as one draw
    (Davison and Hinkley 1997). 1 where nothing differs.
    """
    sums = sums[sums != 0]
    groups = len(sums)
    if not groups:
        return 1.0
    least = abs(sums.sum()) * (1 - 1e-9)  # of equals none is lost to rounding
    if groups < 63 and 2**groups <= resamples:
        patterns = np.arange(2**groups)[:, None] >> np.arange(groups) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ sums) >= least))
    generator, found, step = np.random.default_rng(seed), 1, max(1, _NUMBERS // groups)
    for start in range(0, resamples, step):
        signs = 2 * generator.integers(0, 2, (min(step, resamples - start), groups), dtype=np.int8) - 1
        found += int(np.sum(np.abs(signs @ sums) >= least))
    return found / (resamples + 1)


def holm(ps: Sequence[float]) -> list[float]:
    """Corrected p values, in their order (Holm 1979)."""
    order = sorted(range(len(ps)), key=lambda index: ps[index])
    found, least = [0.0] * len(ps), 0.0
    for place, index in enumerate(order):
        least = max(least, min(1.0, (len(ps) - place) * ps[index]))
        found[index] = least
    return found


def _paired(one: Score, two: Score) -> tuple[NDArray[np.float64], tuple[str, ...]] | None:
    """[n] differences of the samples that both have, second less first, and their keys; None where a score is no mean
    over samples, none is in common, or keys do not tell samples apart."""
    if one.each is None or two.each is None:
        return None
    first, second = one.each.double().numpy(), two.each.double().numpy()
    if one.keys == two.keys:
        return (second - first, one.keys) if len(first) else None
    places = ({key: index for index, key in enumerate(score.keys)} for score in (one, two))
    of_one, of_two = places
    if len(of_one) < len(one.keys) or len(of_two) < len(two.keys):
        return None
    keys = tuple(key for key in one.keys if key in of_two)
    if not keys:
        return None
    rows = [of_one[key] for key in keys], [of_two[key] for key in keys]
    return second[rows[1]] - first[rows[0]], keys


def _grouped(
    each: NDArray[np.float64], keys: Sequence[str], groups: Sequence[Mapping[str, Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums and counts of the groups; each sample by itself where there are none."""
    if not groups:
        return each, np.ones_like(each)
    of = max(groups, key=lambda one: sum(key in one for key in keys))  # of equals the first
    if missing := [key for key in keys if key not in of]:
        raise UserError(f"the groups say nothing of {len(missing):,} samples, such as {missing[0]!r}")
    names = {name: index for index, name in enumerate(dict.fromkeys(of[key] for key in keys))}
    rows = np.array([names[of[key]] for key in keys])
    sums = np.bincount(rows, each, len(names)).astype(np.float64)
    return sums, np.bincount(rows, minlength=len(names)).astype(np.float64)


def _unlike(results: Sequence[Result], groups: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What to say where results put the same samples into different groups."""
    if groups is not None:
        return ()
    numberings = [one.groups for one in results if one.groups]
    for one, two in itertools.combinations(numberings, 2):
        common = [key for key in one if key in two]
        pairs = {(one[key], two[key]) for key in common}
        if not len(pairs) == len({pair[0] for pair in pairs}) == len({pair[1] for pair in pairs}):
            return ("the models were evaluated with different --group rules: those of the first that has them count",)
    if numberings and len(numberings) < len(results):
        return ("only some models were evaluated with --group: their groups count for all",)
    return ()


def _named(results: Sequence[Result]) -> tuple[str, ...]:
    """Names that differ."""
    names = [result.name for result in results]
    return tuple(name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, start=1))


def _warned(results: Sequence[Result], figures: Sequence[Figure]) -> tuple[str, ...]:
    told = []
    for split in ("train", "test", "outside"):
        digests = {str(one.data[split].get("digest")) for one in results if isinstance(one.data.get(split), Mapping)}
        if len(digests) > 1:
            told.append(f"the {split} shards are not the same for all models")
    for name in ("pieces", "tokens"):
        values = [str(one.settings[name]) for one in results if name in one.settings]
        if len(set(values)) > 1:
            told.append(f"the models were evaluated with different --{name}: {', '.join(values)}")
    for figure in figures:
        for one in figure.differences:
            first, second = figure.scores[one.one], figure.scores[one.two]
            most = max(score.n for score in (first, second) if score is not None)
            if one.n < most:
                told.append(f"{figure.task} {figure.metric}: only {one.n:,} of {most:,} samples are common to both")
            if one.groups is not None and one.groups < FEW_GROUPS:
                told.append(f"only {one.groups} groups are drawn from: intervals of so few are too narrow")
    return tuple(dict.fromkeys(told))
