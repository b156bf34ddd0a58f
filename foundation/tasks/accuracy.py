"""What tasks that name a class for every test sample say: top-1, balanced accuracy, and which classes are confused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from foundation.probes.features import FeatureSet, check_finite
from foundation.probes.scores import interval_of_groups, score, wilson_interval
from foundation.probes.treatments import treated
from foundation.tasks.base import Confusion, Score, Subject

MOST_CLASSES = 200
"""More are not drawn as a confusion matrix."""
_Z = 1.959963984540054


def no_test(subject: Subject) -> str | None:
    """The refusal of a task that learns from one split and scores another."""
    return None if subject.test else "it scores test samples, and there are none: give --test SHARDS"


def standardised(subject: Subject) -> tuple[FeatureSet, FeatureSet, Tensor, Tensor]:
    """Labelled samples of both splits, and one vector [S, D] for each, of mean 0 and deviation 1 over the training
    samples; labels are not looked at.

    Raises:
        UserError: as for :meth:`foundation.tasks.base.Subject.labelled`; a feature is not finite.
    """
    tokens = subject.settings.tokens
    train, test = subject.labelled()
    for part, what in ((train, "training"), (test, "test")):
        check_finite(torch.cat(part.tokens(tokens), dim=1), what)
    known, asked = treated("standardised", train, test, blocks=1, patches=tokens != "cls")
    return train, test, torch.cat(known.tokens(tokens), dim=1), torch.cat(asked.tokens(tokens), dim=1)


def of_predictions(predictions: Tensor, test: FeatureSet, setting: str = "") -> tuple[Score, Score]:
    """top-1 and balanced accuracy.

    Args:
        predictions: [S] int64.
        test: the samples.
        setting: what was chosen.
    """
    found, right = score(predictions, test.labels), (predictions == test.labels).float()
    counts = torch.bincount(test.labels).float()
    first = Score(
        metric="top1",
        value=found.top1,
        n=len(test),
        interval=found.interval,
        setting=setting,
        chance=float(counts.max() / counts.sum()),
        each=right,
        keys=test.keys,
    )
    second = Score(
        metric="balanced", value=found.balanced, n=len(test), setting=setting, chance=1 / int((counts > 0).sum())
    )
    return first, second


def mean_of(metric: str, each: Tensor, keys: tuple[str, ...], *, setting: str = "", chance: float | None = None,
            bounds: tuple[float, float] = (0.0, 1.0)) -> Score:  # fmt: skip
    """A mean over test samples with the interval of the normal distribution, cut to what is possible; of
    a share of samples (all are 0 or 1) with Wilson's.

    Args:
        metric: name of it.
        each: [n] float.
        keys: of the samples.
        setting: what was chosen.
        chance: what knowing nothing scores.
        bounds: of the metric.
    """
    value = float(each.double().mean())
    half = _Z * float(each.double().std()) / math.sqrt(len(each)) if len(each) > 1 else math.nan
    interval = None if math.isnan(half) else (max(bounds[0], value - half), min(bounds[1], value + half))
    if bool(((each == 0) | (each == 1)).all()):
        interval = wilson_interval(int(each.sum()), len(each))
    return Score(
        metric=metric, value=value, n=len(each), interval=interval, setting=setting, chance=chance,
        each=each.float(), keys=keys,
    )  # fmt: skip


def widened(score: Score, groups: Mapping[str, int]) -> Score:
    """The score with an interval that counts samples of a group together, where that is wider than its own; itself
    where it is no mean over samples or has no interval.

    Args:
        score: of a task.
        groups: of the samples, by key.
    """
    if score.each is None or score.interval is None or not all(key in groups for key in score.keys):
        return score
    each, numbers = score.each.double(), torch.tensor([groups[key] for key in score.keys])
    share = score.share and bool(((each >= 0) & (each <= 1)).all())
    found = interval_of_groups(each, numbers, score.interval, share=share)
    return score if found == score.interval else replace(score, interval=found)


def confusion(predictions: Tensor, test: FeatureSet) -> tuple[Confusion, ...]:
    """The matrix, where there are few enough classes to look at."""
    classes = len(test.classes)
    if not 1 < classes <= MOST_CLASSES:
        return ()
    counts = torch.bincount(test.labels * classes + predictions, minlength=classes**2).reshape(classes, classes)
    return (Confusion(title="Confusions", counts=counts.tolist(), classes=test.classes),)
