"""A curve that grows for ever in bounded memory: neighbours are joined, and what they spread over stays visible."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import Any

MOST_POINTS = 2000
"""Points of a curve, at most: beyond, each two neighbours become one."""


class Series:
    """Values by ascending step.

    Each point stands for ``stride`` values: their mean, lowest and highest, at the step of the last of them. The last
    point may stand for fewer.

    Attributes:
        generation: grows whenever points change that are not the last one; who has points of an earlier one needs all.
        stride: values that a point stands for.
        last: value added last.
        best: step and value of the highest value ever added.
    """

    def __init__(self) -> None:
        self.generation = 0
        self.stride = 1
        self.last: float | None = None
        self.best: tuple[int, float] | None = None
        self._steps, self._counts = array("q"), array("q")
        self._means, self._lows, self._highs = array("d"), array("d"), array("d")

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, step: int, value: float) -> None:
        """Append a value. A step that is not behind the last one takes back what stood from there on: the run went
        back to a checkpoint."""
        if self._steps and step <= self._steps[-1]:
            self._back_to(step)
        self.last = value
        if self.best is None or value > self.best[1]:
            self.best = (step, value)
        if self._steps and self._counts[-1] < self.stride:
            count = self._counts[-1]
            self._means[-1] += (value - self._means[-1]) / (count + 1)
            self._lows[-1], self._highs[-1] = min(self._lows[-1], value), max(self._highs[-1], value)
            self._steps[-1], self._counts[-1] = step, count + 1
            return
        self._steps.append(step)
        self._counts.append(1)
        for column in (self._means, self._lows, self._highs):
            column.append(value)
        if len(self._steps) > MOST_POINTS:
            self._join_neighbours()

    def points(self, start: int = 0) -> dict[str, Any]:
        """The points from an index on, as JSON values: steps ``x``, means ``y`` and, where points stand for several
        values, ``low`` and ``high``."""
        found: dict[str, Any] = {"x": self._steps[start:].tolist(), "y": _short(self._means[start:])}
        if self.stride > 1:
            found |= {"low": _short(self._lows[start:]), "high": _short(self._highs[start:])}
        return found

    def _back_to(self, step: int) -> None:
        kept = bisect_left(self._steps, step)
        for column in (self._steps, self._counts, self._means, self._lows, self._highs):
            del column[kept:]
        self.generation += 1
        if self.best is not None and self.best[0] >= step:
            highest = max(range(kept), key=self._highs.__getitem__, default=None)
            self.best = None if highest is None else (self._steps[highest], self._highs[highest])

    def _join_neighbours(self) -> None:
        whole = len(self._steps) // 2 * 2
        joined: list[tuple[int, int, float, float, float]] = []
        for a in range(0, whole, 2):
            b = a + 1
            count = self._counts[a] + self._counts[b]
            mean = (self._means[a] * self._counts[a] + self._means[b] * self._counts[b]) / count
            low, high = min(self._lows[a], self._lows[b]), max(self._highs[a], self._highs[b])
            joined.append((self._steps[b], count, mean, low, high))
        steps, counts, means, lows, highs = zip(*joined, strict=True)
        self._steps[:whole], self._counts[:whole] = array("q", steps), array("q", counts)
        self._means[:whole], self._lows[:whole] = array("d", means), array("d", lows)
        self._highs[:whole] = array("d", highs)
        self.stride *= 2
        self.generation += 1


def _short(values: array[float]) -> list[float]:
    """With six digits, which no screen shows more of."""
    return [float(f"{value:.6g}") for value in values]
