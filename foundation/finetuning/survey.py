"""What labels some shards hold, before anything is trained: classes and their counts, or means and deviations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from foundation.data.extras.target import Target, Task, has_list, names_of, numbers_of
from foundation.data.shards import RawSample, open_shards
from foundation.errors import SampleError, UserError
from foundation.probes.labels import class_names
from foundation.probes.road import open_limited
from foundation.voice import plural

_LABELS = ("cls", "json")
_FEW_SEVERAL = 0.05
"""Share of samples with several labels that a classification leaves out; of more it is not what is meant."""


@dataclass(frozen=True)
class Survey:
    """Labels of training shards.

    Attributes:
        samples: that could be read.
        labelled: of those.
        classes: names of classes or labels, class numbers first, in their order, then names, in theirs.
        counts: samples of each.
        mean: of each number of a regression.
        std: likewise.
        names: what a person calls the classes: of class numbers what the shards' index says.
    """

    samples: int
    labelled: int
    classes: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def balanced_weights(self) -> tuple[float, ...]:
        """Weight of each class that makes all count alike: samples / (classes x samples of the class)."""
        total = sum(self.counts)
        return tuple(round(total / (len(self.counts) * count), 6) for count in self.counts)


def survey(patterns: Sequence[str], task: Task, fields: Sequence[str]) -> Survey:
    """Read the labels of all samples; nothing is decoded.

    Raises:
        UserError: there are no such shards, no labels of the kind, or only one class.
    """
    if task == "regression":
        return _of_numbers(patterns, fields)
    samples, labelled, several = 0, 0, 0
    counts: Counter[str] = Counter()
    for raw in _raws(patterns):
        samples += 1
        names = names_of(raw, fields[0])
        if task == "classification" and len(names) > 1:
            several += 1
            continue
        labelled += bool(names) or (task == "labels" and has_list(raw, fields[0]))
        counts.update(names)
    where = f"{', '.join(patterns)} (member cls, or field {fields[0]!r} of json)"
    if several > _FEW_SEVERAL * samples:
        raise UserError(
            f"{several:,} of the {samples:,} samples of {where} have several labels each: say --task labels"
        )
    if not counts:
        raise UserError(f"none of the {plural(samples, 'sample')} of {where} has a label: name its field with --label")
    if task == "classification" and len(counts) < 2:
        raise UserError(
            f"all samples of {where} are of the class {next(iter(counts))!r}: there is nothing to tell apart"
        )
    classes = tuple(sorted(counts, key=_place))
    names = class_names(classes, open_limited(patterns, None).classes) if task == "classification" else classes
    return Survey(samples, labelled, classes, tuple(counts[name] for name in classes), names=names)


def _of_numbers(patterns: Sequence[str], fields: Sequence[str]) -> Survey:
    samples, rows = 0, []
    for raw in _raws(patterns):
        samples += 1
        numbers = numbers_of(raw, fields)
        if numbers is not None:
            rows.append(numbers)
    where = f"{', '.join(patterns)} (fields {', '.join(fields)} of json)"
    if not rows:
        raise UserError(f"none of the {plural(samples, 'sample')} of {where} has numbers there: name them with --label")
    lengths = Counter(map(len, rows))
    usual = lengths.most_common(1)[0][0]
    values = np.array([row for row in rows if len(row) == usual], dtype=np.float64)
    std = values.std(axis=0)
    # The deviation of equal numbers is not 0 but rounding.
    still = np.flatnonzero(np.ptp(values, axis=0) == 0).tolist()
    if still:
        raise UserError(f"the numbers at place {still[0]} of {where} are all the same: there is nothing to learn")
    return Survey(samples, len(values), mean=tuple(values.mean(axis=0).tolist()), std=tuple(std.tolist()))


def check_split(patterns: Sequence[str], target: Target) -> None:
    """Look at which samples are kept back, before anything is trained.

    Raises:
        UserError: none or all are, or the rule of the groups finds nothing in a key: the sample would stand for itself,
            and samples that belong together on both sides.
    """
    config, shards = target.config, open_shards(list(patterns))
    keys = [key for shard in range(len(shards.counts)) for key in shards.table(shard).keys]
    shards.close()
    rule = config.group
    if rule is not None and (lost := next((key for key in keys if target.group_of(key) is None), None)) is not None:
        more = "; a field of the json cannot be named here" if rule.startswith("json:") else ""
        raise UserError(
            f"--group {rule!r} finds nothing in the key {lost!r}; it must say a group for every sample{more}"
        )
    kept = sum(map(target.is_kept_back, keys))
    if config.kept_back and kept in (0, len(keys)):
        what = "none" if not kept else "all"
        of = "" if rule is None else f" (--group {rule!r})"
        raise UserError(
            f"{what} of the {plural(len(keys), 'sample')}{of} would be kept back to choose by: give more samples, "
            "another --validation or --seed, or --validation 0, which keeps the last state"
        )


def _raws(patterns: Sequence[str]) -> Iterator[RawSample]:
    """Labels of all samples that can be read."""
    shards = open_shards(list(patterns))
    try:
        for shard, count in enumerate(shards.counts.tolist()):
            for index in range(count):
                try:
                    yield shards.read(shard, index, only=_LABELS)
                except SampleError:
                    continue
    finally:
        shards.close()


def _place(name: str) -> tuple[bool, int, str]:
    number = name.isascii() and name.isdigit()
    return not number, int(name) if number else 0, name
