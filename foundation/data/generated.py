"""What data sets that are made by a program have in common: their options, their splits, their random numbers.

A data set gives the names of its classes and a function that makes one sample. Every number comes from the seed, the
split and the place of the sample, so a sample stays the same whatever else is made, and the numbers of the test split
occur nowhere in the training split.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from foundation import counter
from foundation.errors import UserError
from foundation.ranges import CountOrNone, Seed, argument

_BLOCK = 64


class Numbers:
    """Random numbers of one thing, one after the other, so that the code reads like the thing it makes.

    Args:
        seed: of the data set.
        number: of the thing.
        stream: what the numbers are for; different names give numbers that have nothing to do with each other.
    """

    def __init__(self, seed: int, number: int, stream: str) -> None:
        self._seed, self._number, self._stream = seed, number, stream
        self._drawn = 0
        self._left: list[float] = []

    def many(self, count: int) -> NDArray[np.float64]:
        """[count] uniform in [0, 1)."""
        self._drawn += 1
        return counter.uniform(self._seed, 0, self._number, f"{self._stream}.{self._drawn}", count)[0]

    def between(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        if not self._left:
            self._left = self.many(_BLOCK).tolist()
        return low + (high - low) * self._left.pop()

    def ratio(self, low: float, high: float) -> float:
        """Log-uniform in [low, high): as much chance from 1 to 2 as from 2 to 4."""
        return float(np.exp(self.between(np.log(low), np.log(high))))

    def whole(self, count: int) -> int:
        """One of 0 to count - 1."""
        return int(self.between(0, count))

    def sign(self) -> float:
        """-1 or 1."""
        return 1.0 if self.between(0, 1) < 0.5 else -1.0

    def normal(self, count: int) -> NDArray[np.float64]:
        """[count] standard normal (Box and Muller 1958)."""
        uniform = self.many(2 * count).reshape(2, count)
        return np.sqrt(-2.0 * np.log(1.0 - uniform[0])) * np.cos(2.0 * np.pi * uniform[1])


Make: TypeAlias = Callable[[int, int, Numbers, str], Mapping[str, bytes]]
"""From the class, the place in the split, the random numbers and the name of the split to the members of a sample."""


def add_arguments(parser: argparse.ArgumentParser, train: int, test: int) -> None:
    """Declare what the user can choose of every such data set.

    Args:
        parser: of the data set.
        train: samples of the training split by default.
        test: samples of the test split by default.
    """
    parser.add_argument(
        "--train", type=argument(CountOrNone), default=train, help="training samples (default: %(default)s)"
    )
    parser.add_argument("--test", type=argument(CountOrNone), default=test, help="test samples (default: %(default)s)")
    parser.add_argument(
        "--seed", type=argument(Seed), default=0, help="of everything that is drawn (default: %(default)s)"
    )


def samples(name: str, arguments: argparse.Namespace, classes: Sequence[str], make: Make) -> Mapping[str, Split]:
    """The splits, made while they are written; as many samples of each class, in random order.

    Args:
        name: of the data set; begins the names of its random streams.
        arguments: as :func:`add_arguments` declared them.
        classes: names of the labels, in order.
        make: one sample.

    Raises:
        UserError: a split without samples.
    """
    for split in ("train", "test"):
        if getattr(arguments, split) < 1:
            raise UserError(f"--{split} must be at least 1, got {getattr(arguments, split)}")
    return {
        split: Split(name, split, getattr(arguments, split), arguments.seed, tuple(classes), make)
        for split in ("train", "test")
    }


@dataclass(frozen=True)
class Split:
    """Sized and re-readable, so that a progress bar knows the end.

    Attributes:
        name: of the data set.
        split: ``train`` or ``test``.
        count: samples.
        seed: of everything.
        classes: names of the labels.
        make: one sample.
    """

    name: str
    split: str
    count: int
    seed: int
    classes: tuple[str, ...]
    make: Make

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        order = counter.permutation(self.seed, 0, 0, f"{self.name}.{self.split}", self.count)
        for number, place in enumerate(order.tolist()):
            label = place % len(self.classes)
            numbers = Numbers(self.seed, number, f"{self.name}.{self.split}.sample")
            made = self.make(label, number, numbers, self.split)
            key = f"{self.split}-{number:05d}-{self.classes[label].replace(' ', '-')}"
            yield {"__key__": key, **made, "cls": str(label).encode()}
