"""When each modality of a sample was recorded, and where a moment of one lies on the clock of another.

A decoder says it by entries beside its own: ``X_times`` (seconds of each frame) with ``X_end``, or ``X_rate`` (Hz) with
``X_start`` (seconds, 0 if absent). What says neither (a picture, a cloud of points) belongs to all of the sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


def extent(sample: Mapping[str, Any], entry: str) -> tuple[float, float] | None:
    """First and last moment of an entry in seconds; None for what has no time."""
    if f"{entry}_end" in sample:
        return float(sample[f"{entry}_times"][0]), float(sample[f"{entry}_end"])
    if f"{entry}_rate" in sample:
        start = float(sample.get(f"{entry}_start", 0.0))
        return start, start + len(sample[entry]) / float(sample[f"{entry}_rate"])
    return None


def extents(sample: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """First and last moment of every entry that has a time."""
    found = {name: extent(sample, name) for name in sample if not name.startswith("__") and "_" not in name}
    return {name: span for name, span in found.items() if span is not None}


def outside(spans: Mapping[str, tuple[float, float]]) -> float:
    """Largest share of the shortest recording for which some other one has nothing."""
    begin, end = max(span[0] for span in spans.values()), min(span[1] for span in spans.values())
    shortest = min(span[1] - span[0] for span in spans.values())
    return 1.0 - max(0.0, end - begin) / max(shortest, 1e-9)


@dataclass(frozen=True)
class Common:
    """The time that several recordings of each sample share.

    Attributes:
        begins: [B] seconds, on the common clock.
        ends: [B].
        offsets: by entry [B] what a moment of the common clock is on the entry's own: ``offset + factor * moment``.
        factors: by entry [B].
    """

    begins: NDArray[np.float64]
    ends: NDArray[np.float64]
    offsets: Mapping[str, NDArray[np.float64]]
    factors: Mapping[str, NDArray[np.float64]]

    def own(self, entry: str, placed: NDArray[np.float64]) -> NDArray[np.float64]:
        """[R, 2] begins and seconds on the common clock, as the entry's own clock has them."""
        repeats = len(placed) // len(self.begins)
        offset, factor = (np.tile(part[entry], repeats) for part in (self.offsets, self.factors))
        return np.stack([offset + factor * placed[:, 0], factor * placed[:, 1]], axis=1)


def common(samples: Sequence[Mapping[str, Any]], entries: Sequence[str], by_ends: bool) -> Common:
    """The time that all of some entries share.

    Args:
        samples: B samples that have them all.
        entries: the first one's clock is the common one.
        by_ends: their first and last moments are the same ones, whatever their clocks say: one clock is stretched over
            the other. Else the clocks agree and the overlap counts.
    """
    spans = {entry: np.array([extent(sample, entry) for sample in samples], np.float64) for entry in entries}
    first = spans[entries[0]]
    if not by_ends:
        whole = np.stack(list(spans.values()))
        zeros, ones = np.zeros(len(samples)), np.ones(len(samples))
        return Common(
            whole[:, :, 0].max(0), whole[:, :, 1].min(0), dict.fromkeys(entries, zeros), dict.fromkeys(entries, ones)
        )
    factors = {e: (span[:, 1] - span[:, 0]) / (first[:, 1] - first[:, 0]) for e, span in spans.items()}
    offsets = {entry: span[:, 0] - factors[entry] * first[:, 0] for entry, span in spans.items()}
    return Common(first[:, 0], first[:, 1], offsets, factors)
