"""Ranges of the numbers in a recipe: marks beside the types, so that one place says, checks and documents them.

::

    momentum: Share = 0.9                                      a word for a common range
    hue: Annotated[float, Range(0, 0.5)] = 0.1                 a range of its own
    scale: Annotated[tuple[PositiveShare, PositiveShare], Rising()] = (0.4, 1.0)
    learning_rate: Annotated[Schedule, Range(0, 1e4)]          every value that the schedule takes

NaN and infinity lie in no range. A recipe is checked where it is read (:mod:`foundation.config_reader`), a ``Config``
that is built in Python or from the card of a model where its ``__post_init__`` calls :func:`check`.
"""

from __future__ import annotations

import dataclasses
import math
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    Protocol,
    TypeAlias,
    TypeGuard,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

from foundation.errors import UserError


@runtime_checkable
class Compound(Protocol):
    """A value of several numbers that have one range together, such as a schedule."""

    def numbers(self) -> tuple[float, ...]:
        """All of them."""
        ...

    def shown(self) -> str:
        """How a message shows the value."""
        ...


def is_compound(value: Any) -> TypeGuard[Compound]:
    """Whether a value is a :class:`Compound`; plain ones, of which there are most, are told at once."""
    return not isinstance(value, int | float | str) and isinstance(value, Compound)


@dataclass(frozen=True)
class Range:
    """Smallest and largest value of a number, or of every value that a schedule takes, or of a duration's amount.

    Attributes:
        low: smallest.
        high: largest.
        above: ``low`` itself is too small.
        below: ``high`` itself is too large.
    """

    low: float
    high: float
    above: bool = False
    below: bool = False

    def __str__(self) -> str:
        if not self.above and not self.below:
            return f"from {written(self.low)} to {written(self.high)}"
        low = f"{'above' if self.above else 'at least'} {written(self.low)}"
        return f"{low} and {'below' if self.below else 'at most'} {written(self.high)}"

    def holds(self, value: Any) -> bool:
        """Whether a number lies inside; False for what is no number."""
        if is_compound(value):
            return all(self.holds(number) for number in value.numbers())
        try:
            low = self.low < value if self.above else self.low <= value
            high = value < self.high if self.below else value <= self.high
        except TypeError:
            return False
        return bool(low and high)


@dataclass(frozen=True)
class Length:
    """How many entries a list has."""

    least: int
    most: int

    def __str__(self) -> str:
        return f"a list of {self.least} to {self.most} entries"

    def holds(self, value: Any) -> bool:
        """Whether a list has so many."""
        return self.least <= len(value) <= self.most


@dataclass(frozen=True)
class Rising:
    """The entries of a list do not fall: a pair is the smallest and the largest."""

    def __str__(self) -> str:
        return "the smallest first, then the largest"

    def holds(self, value: Any) -> bool:
        """Whether no entry is smaller than the one before."""
        return all(before <= after for before, after in pairwise(value))


Mark: TypeAlias = Range | Length | Rising

LARGEST = 2**31 - 1
"""Largest count: far above any real one, and every product of two fits 64 bits."""

Count: TypeAlias = Annotated[int, Range(1, LARGEST)]
"""How many of something; at least one."""

CountOrNone: TypeAlias = Annotated[int, Range(0, LARGEST)]
"""How many of something; 0 is none."""

Side: TypeAlias = Annotated[int, Range(1, 65536)]
"""Width of a layer, or length of a side in pixels, frames, steps or points."""

Depth: TypeAlias = Annotated[int, Range(1, 256)]
"""Layers, one after the other."""

DepthOrNone: TypeAlias = Annotated[int, Range(0, 256)]
"""Layers, one after the other; 0 is none."""

Block: TypeAlias = Annotated[int, Range(-256, 255)]
"""One of the blocks of an encoder, from 0, or from the end: -1 is the last."""

Views: TypeAlias = Annotated[int, Range(0, 256)]
"""Views of one sample."""

Workers: TypeAlias = Annotated[int, Range(0, 1024)]
"""Processes that load data."""

Rank: TypeAlias = Annotated[int, Range(0, LARGEST)]
"""Number of a process of a run."""

Share: TypeAlias = Annotated[float, Range(0, 1)]
"""A share or a probability."""

PositiveShare: TypeAlias = Annotated[float, Range(0, 1, above=True)]
"""A share of something, more than nothing."""

ShareBelowOne: TypeAlias = Annotated[float, Range(0, 1, below=True)]
"""A share of something, less than all."""

Number: TypeAlias = Annotated[float, Range(-1e9, 1e9)]
"""Any number that arithmetic in 32 bits can bear."""

NonNegative: TypeAlias = Annotated[float, Range(0, 1e9)]
"""0 or more."""

Positive: TypeAlias = Annotated[float, Range(0, 1e9, above=True)]
"""More than 0."""

Deviation: TypeAlias = Annotated[float, Range(1e-9, 1e9)]
"""What numbers are divided by, so that their spread is 1."""

Seconds: TypeAlias = Annotated[float, Range(0, 1e7, above=True)]
"""A time, up to some four months."""

SecondsOrNever: TypeAlias = Annotated[float, Range(0, 1e7)]
"""A time, up to some four months; 0 switches off what it is for."""

Shares: TypeAlias = Annotated[tuple[PositiveShare, PositiveShare], Rising()]
"""Smallest and largest share."""

Factors: TypeAlias = Annotated[tuple[Positive, Positive], Rising()]
"""Smallest and largest factor."""

ViewShares: TypeAlias = Annotated[tuple[Share, ...], Length(1, 256)]
"""A probability for all views of a kind, or one for each."""

Decibels: TypeAlias = Annotated[tuple[Annotated[float, Range(-120, 120)], Annotated[float, Range(-120, 120)]], Rising()]
"""Smallest and largest loudness, dB."""

Seed: TypeAlias = Annotated[int, Range(-(2**63), 2**63 - 1)]
"""Seed of random numbers."""

Degrees: TypeAlias = Annotated[float, Range(0, 360)]
"""An angle."""

Rate: TypeAlias = Annotated[float, Range(0.1, 100_000)]
"""Samples or frames per second, Hz."""

Bytes: TypeAlias = Annotated[int, Range(1, 2**50)]
"""Size of a file."""

Processes: TypeAlias = Annotated[int, Range(1, 1024)]
"""Training processes on one machine."""

Temperature: TypeAlias = Annotated[float, Range(1e-6, 1e6)]
"""What scores are divided by before a softmax."""


def written(number: float) -> str:
    """A bound as one would write it."""
    whole = isinstance(number, int) or (number == int(number) and abs(number) < 1e7)
    return str(int(number)) if whole else f"{number:g}"


def marks_of(hint: Any) -> tuple[Mark, ...]:
    """The marks that stand directly at a type."""
    return tuple(m for m in getattr(hint, "__metadata__", ()) if isinstance(m, (Range, Length, Rising)))


def bare(hint: Any) -> Any:
    """A type without the marks that stand directly at it; other annotations stay."""
    return get_args(hint)[0] if marks_of(hint) else hint


def refusal(hint: Any, value: Any, nullable: bool = False) -> str | None:
    """What is wrong with a value by the marks directly at its type, not those inside; None where nothing is.

    Args:
        hint: the type.
        value: of it.
        nullable: null would be right too.
    """
    mark = _broken(hint, value)
    return None if mark is None else f"is {_shown(value)}; it must be {mark}" + (", or null" if nullable else "")


def refusals(hint: Any, value: Any, key: str, nullable: bool = False) -> Iterator[tuple[str, str]]:
    """Key and trouble of each number in a value that lies outside the range of its type, entries first."""
    inner = bare(hint)
    before = 0
    if get_origin(inner) in (Union, UnionType):
        yield from _of_union(inner, value, key)
    elif isinstance(value, (tuple, list)):
        kinds = _kinds(inner, len(value))
        for index, (kind, entry) in enumerate(zip(kinds, value, strict=False)):
            for found in refusals(kind, entry, f"{key}.{index}"):
                before += 1
                yield found
    elif isinstance(value, dict) and len(get_args(inner)) == 2:
        for name, entry in value.items():
            yield from refusals(get_args(inner)[1], entry, f"{key}.{name}")
    if not before and (text := refusal(hint, value, nullable)) is not None:
        yield key, text


def check(config: Any, where: str = "") -> None:
    """Refuse a dataclass one of whose own numbers lies outside its range; dataclasses inside check themselves.

    Args:
        config: the dataclass.
        where: stands before the names of its fields in the message, such as ``views``.

    Raises:
        UserError: naming the first such field.
    """
    for key, text in of_fields(config, where):
        raise UserError(f"{key} {text}")


def argument(hint: Any) -> Callable[[str], Any]:
    """What ``argparse`` takes as ``type`` for a number with a range: ``type=argument(Count)``.

    Args:
        hint: a marked ``int`` or ``float``.

    Returns:
        A function from the word on the command line to the number; what it raises becomes one line and exit code 2.
    """
    kind = bare(hint)

    def read(word: str) -> Any:
        try:
            value = kind(word)
        except (ValueError, OverflowError):
            shown = word if len(word) <= 40 else f"{word[:30]}... ({len(word)} characters)"
            raise ArgumentTypeError(f"{shown!r} is no {'whole number' if kind is int else 'number'}") from None
        if (mark := _broken(hint, value)) is not None:
            raise ArgumentTypeError(f"{_shown(value)} given; it must be {mark}")
        return value

    return read


def of_fields(config: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """:func:`refusals` of the fields of a dataclass, their keys below ``where``."""
    kind: Any = type(config)
    hints = hints_of(kind)
    for field in dataclasses.fields(config):
        key = f"{where}.{field.name}" if where else field.name
        yield from refusals(hints[field.name], getattr(config, field.name), key)


def _broken(hint: Any, value: Any) -> Mark | None:
    return next((mark for mark in marks_of(hint) if not mark.holds(value)), None)


def _of_union(inner: Any, value: Any, key: str) -> Iterator[tuple[str, str]]:
    members = [member for member in get_args(inner) if member is not type(None)]
    nullable = len(members) < len(get_args(inner))
    if value is None and nullable:
        return
    found = [list(refusals(member, value, key, nullable)) for member in members if _is_of(member, value)]
    if found and all(found):
        yield from found[0]


def _is_of(hint: Any, value: Any) -> bool:
    kind = get_origin(bare(hint)) or bare(hint)
    if kind is Literal:
        return value in get_args(bare(hint))
    if kind in (int, float):
        return not dataclasses.is_dataclass(value)
    return not isinstance(kind, type) or isinstance(value, kind)


def _kinds(inner: Any, count: int) -> list[Any]:
    arguments = get_args(inner) or (Any, ...)
    if get_origin(inner) is tuple and Ellipsis not in arguments:
        return list(arguments)
    return [arguments[0]] * count


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return written(value) if math.isfinite(value) else str(value)
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_shown(entry) for entry in value[:8]) + (", ...]" if len(value) > 8 else "]")
    if is_compound(value):
        return value.shown()
    text = repr(value)
    return text if len(text) <= 40 else text[:30] + f"... ({len(text)} characters)"


@cache
def hints_of(cls: Any) -> dict[str, Any]:
    """Declared types of the fields of a dataclass by name; to be read only."""
    return get_type_hints(cls, include_extras=True)
