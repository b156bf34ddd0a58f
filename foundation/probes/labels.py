"""Labels of feature sets as class numbers 0 to n - 1: those that occur, whatever the samples call them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from foundation.probes.features import FeatureSet


def number_classes(*sets: FeatureSet) -> tuple[FeatureSet, ...]:
    """The same samples under one numbering of the classes that occur in any of the sets.

    Class numbers come first, in their order, then names, in theirs: training and test splits agree, and a class number
    of 1,700,000,000 takes no more room than one of 3.

    Args:
        sets: of labelled samples (:meth:`foundation.probes.features.FeatureSet.labelled`).

    Returns:
        The sets with ``labels`` in [0, n) and ``classes`` naming them.
    """
    numbers = sorted({label for features in sets for label in features.labels.tolist() if label >= 0})
    texts = sorted({name for features in sets for name in features.names if isinstance(name, str)})
    places: dict[int | str, int] = {label: index for index, label in enumerate((*numbers, *texts))}
    classes = tuple(map(str, places))

    def numbered(features: FeatureSet) -> FeatureSet:
        names = features.names or (None,) * len(features)
        labels = [
            places.get(name if isinstance(name, str) else label, -1)
            for label, name in zip(features.labels.tolist(), names, strict=True)
        ]
        return replace(features, labels=torch.tensor(labels, dtype=torch.int64), names=(), classes=classes)

    return tuple(map(numbered, sets))


def class_names(classes: Sequence[str], index: Sequence[str]) -> tuple[str, ...]:
    """What a person calls the classes: a class number by the name that the shards' index gives it, if it gives one."""
    return tuple(
        index[int(name)] if name.isascii() and name.isdigit() and len(name) < 10 and int(name) < len(index) else name
        for name in classes
    )
