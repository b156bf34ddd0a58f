"""Mean and deviation of numbers that come sample by sample, in float64; what a modality says of its samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from foundation.types import Sample


class Moments:
    """Per channel; each sample counts alike however long or large it is, as it does in training."""

    def __init__(self) -> None:
        self.samples = 0
        self.mean: NDArray[np.float64] = np.zeros(0)
        self.low: NDArray[np.float64] = np.zeros(0)
        self.high: NDArray[np.float64] = np.zeros(0)
        self._within: NDArray[np.float64] = np.zeros(0)
        self._between: NDArray[np.float64] = np.zeros(0)

    def add(self, values: NDArray[Any]) -> None:
        """Take the numbers of one sample, [N, C] of any type; N is at least 1 and C the same for all samples."""
        values = values.astype(np.float64)
        self.add_moments(values.mean(axis=0), values.var(axis=0), values.min(axis=0), values.max(axis=0))

    def add_moments(
        self,
        mean: NDArray[np.float64],
        variance: NDArray[np.float64],
        low: NDArray[np.float64],
        high: NDArray[np.float64],
    ) -> None:
        """Take the moments of one sample, each [C]."""
        if not self.samples:
            self.mean, self._within, self._between = np.zeros((3, len(mean)))
            self.low, self.high = np.full((2, len(mean)), [[np.inf], [-np.inf]])
        self.samples += 1
        step = mean - self.mean
        self.mean = self.mean + step / self.samples
        self._between += step * (mean - self.mean)
        self._within += variance
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)

    @property
    def std(self) -> NDArray[np.float64]:
        """Deviation of all numbers from the mean of all, [C]."""
        deviation: NDArray[np.float64] = np.sqrt((self._within + self._between) / max(1, self.samples))
        return deviation


@dataclass
class Facts:
    """What a modality says of its samples.

    Attributes:
        views: what a recipe takes below ``views``.
        facts: everything else, each a word, a number or a few of them.
        warnings: what does not look right.
        misfits: views of the recipe that these samples cannot fill, each with the key to change.
    """

    views: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)


class Collector(Protocol):
    """The class ``Statistics`` in a modality's module ``statistics``; made with the recipe's views, or None."""

    def add(self, sample: Sample, raw: Mapping[str, Any]) -> None:
        """Take a sample: decoded, and its members."""

    def facts(self) -> Facts:
        """What the samples so far amount to; asked for when there is at least one."""


def spread(values: list[float]) -> dict[str, float | int]:
    """Smallest, usual and largest of some numbers, with four significant digits; whole numbers stay whole."""
    array = np.array(values, np.float64)
    names = {"least": array.min(), "median": np.median(array), "most": array.max()}
    return {name: int(value) if float(value).is_integer() else rounded(value) for name, value in names.items()}


def rounded(value: float, digits: int = 4) -> float:
    """A number with so many significant digits."""
    return float(f"{float(value):.{digits}g}")


def rounded_all(values: NDArray[np.float64], digits: int = 4) -> list[float]:
    """Numbers with so many significant digits each."""
    return [rounded(value, digits) for value in values]
