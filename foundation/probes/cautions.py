"""What a person should know before believing the figures of a probe."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from foundation.probes.features import FeatureSet

_NAMED = 10
"""Most classes that one line names."""


def one_class(label: str) -> str:
    """What to say of a training split with a single class."""
    return f"all training samples are of class {label!r}: with one class every accuracy is 100 % and says nothing"


def of_splits(train: FeatureSet, test: FeatureSet) -> list[str]:
    """What is wrong with a training and a test split of one numbering of classes; the same object twice: leave one out.

    Returns:
        Sentences; none where nothing is wrong.
    """
    told = []
    if len(train.classes) < 2:
        told.append(one_class(train.classes[0]))
    if len(train) < len(train.classes):
        told.append(f"the training split has {len(train):,} samples for {len(train.classes):,} classes")
    if train is test:
        told.extend(_left_out(train))
        return told
    learnt, asked = (set(part.labels.tolist()) for part in (train, test))
    if absent := sorted(learnt - asked):
        told.append(f"{_classes(absent, train)} no test sample: no figure speaks of {_them(absent)}")
    if unknown := sorted(asked - learnt):
        told.append(f"{_classes(unknown, train)} no training sample: test samples of {_them(unknown)} count as wrong")
    told.extend(_overlap(train, test))
    return told


def of_features(features: FeatureSet, what: str) -> list[str]:
    """What is wrong with the numbers themselves, whatever is asked of them.

    Args:
        features: of one split.
        what: the split's name.
    """
    told = []
    for name, x in (("class tokens", features.cls[-1]), ("mean patch tokens", features.patches)):
        if name != "class tokens" and torch.equal(features.patches, features.cls[-1]):
            continue
        bad = int((~torch.isfinite(x).all(dim=1)).sum())
        if bad:
            told.append(
                f"{what}: {bad:,} of {len(x):,} {name} are NaN or infinite: no probe of this encoder means much"
            )
            continue
        if len(x) < 2:
            continue
        spread = x.amax(dim=0) - x.amin(dim=0)
        still = int((spread <= 1e-6 * x.abs().amax(dim=0)).sum())
        if still == x.shape[1]:
            told.append(f"{what}: the {name} of all {len(x):,} samples are the same: the encoder has collapsed")
        elif still:
            told.append(f"{what}: {still:,} of the {x.shape[1]:,} numbers of the {name} never change")
    return told


def of_groups(train: Sequence[str], test: Sequence[str]) -> list[str]:
    """What is wrong with the groups of a training and a test split, by their names.

    Args:
        train: name of the group of each training sample.
        test: of each test sample.
    """
    both = sorted(set(train) & set(test))
    if not both:
        return []
    count = sum(name in set(both) for name in test)
    what = f"the group {both[0]} is" if len(both) == 1 else f"{len(both):,} groups, such as {both[0]}, are"
    return [
        f"{what} in both splits: {count:,} of the {len(test):,} test samples belong together with training samples, "
        "and the accuracy is too high for groups that nobody has seen"
    ]


def _left_out(features: FeatureSet) -> list[str]:
    """What makes leaving one out say too little or too much of samples."""
    told = []
    if alone := (torch.bincount(features.labels, minlength=len(features.classes)) == 1).nonzero().flatten().tolist():
        found = "it cannot be found, and counts" if len(alone) == 1 else "they cannot be found, and count"
        told.append(f"{_classes(alone, features)} one sample: with that left out {found} as wrong")
    if len(features.prints) and not len(features.groups):
        _, index, count = features.prints.unique(return_inverse=True, return_counts=True)
        rows = (count[index] > 1).nonzero().flatten().tolist()
        if rows:
            told.append(
                f"{len(rows):,} of the {len(features):,} samples have a twin, the same number by number (first: "
                f"{features.keys[rows[0]]!r}): left out, each finds its twin, and the accuracy is too high"
            )
    return told


def _classes(labels: Sequence[int], features: FeatureSet) -> str:
    names = ", ".join(features.classes[label] for label in labels[:_NAMED])
    more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    return f"class {names} has" if len(labels) == 1 else f"classes {names}{more} have"


def _them(labels: Sequence[int]) -> str:
    return "it" if len(labels) == 1 else "them"


def _overlap(train: FeatureSet, test: FeatureSet) -> list[str]:
    """Test samples of which the encoder saw the very same content among the training samples."""
    if not len(train.prints) or not len(test.prints):
        return []
    rows = torch.isin(test.prints, train.prints).nonzero().flatten().tolist()
    if not rows:
        return []
    first = test.keys[rows[0]]
    known = train.keys[int((train.prints == test.prints[rows[0]]).nonzero()[0])]
    other = "" if known == first else f", as {known!r}"
    verb = "is" if len(rows) == 1 else "are"
    return [
        f"{len(rows):,} of the {len(test):,} test samples {verb} in the training split too, number by number (first: "
        f"{first!r}{other}): the accuracy is too high"
    ]
