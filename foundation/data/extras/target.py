"""What a sample is labelled with, as numbers that a supervised loss takes: a class, several labels, or measurements."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import torch
from torch import Tensor

from foundation.data.members import label_of
from foundation.data.shards import RawSample
from foundation.errors import UserError
from foundation.ranges import Deviation, Length, Number, Seed, ShareBelowOne, check

Task: TypeAlias = Literal["classification", "labels", "regression"]
TASKS = ("classification", "labels", "regression")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The label of a sample as numbers [outputs] or a class number; NaN and -1 where there is none, or where the sample
    is kept back: it teaches nothing then."""

    task: Task = "classification"
    """``classification``: one class. ``labels``: each of several, there or not. ``regression``: numbers."""
    fields: Annotated[tuple[str, ...], Length(1, 4096)] = ("label",)
    """Fields of the ``json`` member: the label (a ``cls`` member goes before it), or the numbers of a regression, a
    list counting as many."""
    classes: tuple[str, ...] = ()
    """Names of the classes or labels in the order of the outputs, a class number as text; not for a regression."""
    names: tuple[str, ...] = ()
    """What a person calls the classes, in their order: of numbers what the shards' index says. Empty: the same."""
    mean: Annotated[tuple[Number, ...], Length(0, 4096)] = ()
    """Of a regression: taken off each number."""
    std: Annotated[tuple[Deviation, ...], Length(0, 4096)] = ()
    """Of a regression: what is left is divided by this."""
    kept_back: ShareBelowOne = 0.0
    """Share of the samples that is kept back to choose by, drawn by their keys."""
    group: str | None = None
    """Regular expression over the keys with one group, such as ``^(s[0-9]+)``: samples that it gives the same text stay
    on one side of that split. None: each sample stands for itself."""
    seed: Seed = 0
    """Of that draw."""

    def __post_init__(self) -> None:
        check(self, "data.extras")
        if self.task not in TASKS:
            raise UserError(f"data.extras: task must be one of {', '.join(TASKS)}, got {self.task!r}")
        if (self.task == "regression") != bool(self.mean) or len(self.mean) != len(self.std):
            raise UserError("data.extras: a regression needs mean and std of each of its numbers, other tasks neither")
        if (self.task == "regression") == bool(self.classes):
            raise UserError("data.extras: classes are for classification and labels, which need them")
        if self.names and len(self.names) != len(self.classes):
            raise UserError("data.extras: names must be as many as classes")
        if any(not math.isfinite(value) or value <= 0 for value in self.std):
            raise UserError("data.extras: std must be above 0")

    @property
    def outputs(self) -> int:
        """Numbers that a head has to give."""
        return len(self.mean) if self.task == "regression" else len(self.classes)

    def build(self, name: str) -> Target:
        """The reader; ``name`` is that of the extra in the recipe."""
        return Target(self)


UNKNOWN = -2
"""Of a sample whose class is none of those that were trained: it teaches nothing, and no answer to it is right."""


class Target:
    """See :class:`Config`."""

    def __init__(self, config: Config) -> None:
        import re

        self.config = config
        self.places = {name: place for place, name in enumerate(config.classes)}
        try:
            self._group = None if config.group is None else re.compile(config.group)
        except re.error as error:
            raise UserError(f"data.extras: group {config.group!r} is no regular expression: {error}") from None

    def decode(self, raw: RawSample) -> int | list[float]:
        """What a loss takes of one sample; never bad: a sample without a label teaches nothing."""
        return self.nothing if self.is_kept_back(raw["__key__"]) else self.value(raw)

    def is_kept_back(self, key: str) -> bool:
        """Whether a sample is kept back; by its key (or the part of it that says its group) and the seed alone."""
        if not self.config.kept_back:
            return False
        text = self.group_of(key)
        text = key if text is None else text
        digest = hashlib.sha256(f"{self.config.seed} {text}".encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") < self.config.kept_back * 2**64

    def group_of(self, key: str) -> str | None:
        """The part of a key that says the sample's group; None where there is no rule, or it finds nothing."""
        found = None if self._group is None else self._group.search(key)
        return None if found is None else found[1] if found.re.groups else found[0]

    @property
    def nothing(self) -> int | list[float]:
        """Of a sample that has no label."""
        return -1 if self.config.task == "classification" else [math.nan] * self.config.outputs

    def value(self, raw: RawSample) -> int | list[float]:
        """The label as numbers, kept back or not."""
        if self.config.task == "regression":
            numbers = numbers_of(raw, self.config.fields)
            if numbers is None or len(numbers) != len(self.config.mean):
                return self.nothing
            rows = zip(numbers, self.config.mean, self.config.std, strict=True)
            return [(value - mean) / std for value, mean, std in rows]
        names = names_of(raw, self.config.fields[0])
        if self.config.task == "classification":
            return self.places.get(names[0], UNKNOWN) if len(names) == 1 else -1
        if not names and not has_list(raw, self.config.fields[0]):
            return self.nothing
        there = {self.places[name] for name in names if name in self.places}
        return [float(place in there) for place in range(self.config.outputs)]

    def collate(self, values: Sequence[int | list[float]]) -> Tensor:
        """[B] int64 of classes, or [B, outputs] float32."""
        return torch.tensor(list(values), dtype=torch.int64 if self.config.task == "classification" else torch.float32)


def names_of(raw: RawSample, field: str) -> tuple[str, ...]:
    """Labels of a raw sample as text; none where it has none that can be read."""
    label, _ = label_of(raw, field)
    if label is None:
        return ()
    return tuple(dict.fromkeys(str(one) for one in (label if isinstance(label, list) else [label])))


def has_list(raw: RawSample, field: str) -> bool:
    """Whether a sample says its labels as a list, which may be empty: that it has none of them."""
    return isinstance(_json(raw).get(field), list)


def numbers_of(raw: RawSample, fields: Sequence[str]) -> list[float] | None:
    """Finite numbers in fields of the ``json`` member, one after the other; None where one is missing or no number. A
    ``cls`` member or a text that is a number counts for a single field that is not there."""
    found: list[float] = []
    values = _json(raw)
    if "cls" in raw and len(fields) == 1 and fields[0] not in values:
        values = {fields[0]: raw["cls"].decode("utf-8", "replace")}
    for name in fields:
        value = values.get(name)
        for one in value if isinstance(value, list) else [value]:
            try:
                number = math.nan if isinstance(one, bool) or one is None else float(one)
            except (TypeError, ValueError, OverflowError):
                return None
            if not math.isfinite(number):
                return None
            found.append(number)
    return found


def _json(raw: RawSample) -> dict[str, Any]:
    try:
        values = json.loads(raw.get("json", b"{}"))
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
