"""Events in time: from scores of frames to events, and how well they agree with what was really there.

Letters: T frames, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COLLAR = 0.2
"""Seconds by which an onset may be off (DCASE)."""
OFFSET_SHARE = 0.5
"""Share of an event's length by which its offset may be off, where that is more than the collar (DCASE)."""


@dataclass(frozen=True)
class Event:
    """Something that is there from ``onset`` to ``offset``, seconds; ``label`` is a class number, or a name until
    :func:`foundation.probes.frame_features.number_events` has numbered it."""

    label: int | str
    onset: float
    offset: float


def active(events: Sequence[Event], timeline: NDArray[np.float64], classes: int) -> NDArray[np.bool_]:
    """Which classes are there in the middle of each frame.

    Args:
        events: of one recording.
        timeline: [T, 2] begin and end of the frames, seconds.
        classes: C.

    Returns:
        [T, C].
    """
    middle = timeline.mean(axis=1)
    there = np.zeros((len(timeline), classes), bool)
    for event in events:
        there[(middle >= event.onset) & (middle < event.offset), int(event.label)] = True
    return there


def median(scores: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Median over ``width`` (odd) frames of [T, C]; ends are repeated."""
    if width == 1:
        return scores
    padded = np.pad(scores, ((width // 2, width // 2), (0, 0)), mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, width, axis=0), axis=-1)


def events_of(there: NDArray[np.bool_], timeline: NDArray[np.float64]) -> list[Event]:
    """Runs of active frames [T, C] as events."""
    found = []
    for label in range(there.shape[1]):
        steps = np.diff(np.concatenate([[0], there[:, label].astype(np.int8), [0]]))
        for begin, end in zip(np.flatnonzero(steps == 1), np.flatnonzero(steps == -1), strict=True):
            found.append(Event(label, float(timeline[begin, 0]), float(timeline[end - 1, 1])))
    return found


def agreement(truth: Sequence[Event], found: Sequence[Event], classes: int) -> NDArray[np.int64]:
    """Counts of one recording, [C, 3]: right, false, missed events (DCASE's event-based measure).

    An event found is right when its class agrees, its onset lies within ``COLLAR`` and its offset within ``COLLAR`` or
    ``OFFSET_SHARE`` of the true event's length. Each event counts once, in the best pairing there is.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching

    counts = np.zeros((classes, 3), np.int64)
    for label in range(classes):
        real, heard = ([e for e in part if e.label == label] for part in (truth, found))
        right = 0
        if real and heard:
            fits = [
                [
                    abs(r.onset - h.onset) <= COLLAR
                    and abs(r.offset - h.offset) <= max(COLLAR, OFFSET_SHARE * (r.offset - r.onset))
                    for h in heard
                ]
                for r in real
            ]
            right = int((maximum_bipartite_matching(csr_matrix(np.array(fits, dtype=np.int8))) >= 0).sum())
        counts[label] = right, len(heard) - right, len(real) - right
    return counts


def frame_agreement(truth: NDArray[np.bool_], found: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Counts of frames of one recording, [C, 3]: right, false, missed; truth and found [T, C]."""
    return np.stack([(truth & found).sum(0), (~truth & found).sum(0), (truth & ~found).sum(0)], axis=1).astype(np.int64)


def segment_agreement(
    truth: Sequence[Event], found: Sequence[Event], classes: int, duration: float, length: float = 1.0
) -> NDArray[np.int64]:
    """Counts of segments of one recording, [C, 3]: right, false, missed (DCASE's segment-based measure).

    Args:
        truth: events that are there.
        found: events that were found.
        classes: C.
        duration: of the recording, seconds; what lies behind it does not count.
        length: of a segment, seconds. A class is there in every segment that one of its events touches.
    """
    segments = max(1, int(np.ceil(duration / length - 1e-9)))
    both = np.zeros((2, segments, classes), bool)
    for there, events in zip(both, (truth, found), strict=True):
        for event in events:
            begin, end = int(event.onset / length + 1e-9), int(np.ceil(event.offset / length - 1e-9))
            there[begin:end, int(event.label)] = True
    return frame_agreement(both[0], both[1])


def f1(counts: NDArray[np.int64]) -> float:
    """Mean over the classes that occur of F1 = 2 right / (2 right + false + missed), from [C, 3]; NaN without any."""
    right, false, missed = counts.T
    occur = right + missed > 0
    if not occur.any():
        return float("nan")
    return float((2 * right[occur] / (2 * right + false + missed)[occur]).mean())


def f1_interval(counts: NDArray[np.int64], seed: int = 0, draws: int = 1000) -> tuple[float, float]:
    """95 % interval of :func:`f1` over resampled recordings; counts [S, C, 3]."""
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=draws)
    values = [f1(total) for total in np.tensordot(weights, counts, axes=1)]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)
