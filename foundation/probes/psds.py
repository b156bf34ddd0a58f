"""Polyphonic sound detection score (Bilen et al. 2020): how well events are found at all thresholds at once.

The published program (psds_eval 0.5) does not run with the pandas of today; the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foundation.probes.events import Event

HOUR = 3600.0


@dataclass(frozen=True)
class Scenario:
    """What a use of the detections asks for.

    Attributes:
        detection: share of a detection that events of its class must cover (DTC).
        truth: share of an event that valid detections must cover (GTC).
        cross: share of a wrong detection that events of another class cover, from which it counts as confused with
            that class (CTTC).
        confusion: weight of such confusions (alpha_CT).
        spread: weight of the spread between the classes (alpha_ST).
        most: false detections per hour up to which is looked.
    """

    detection: float
    truth: float
    cross: float
    confusion: float
    spread: float
    most: float = 100.0


FAST = Scenario(0.7, 0.7, 0.3, 0.0, 1.0)
"""DCASE's first scenario: react fast, so that events must be found where they are."""
SURE = Scenario(0.1, 0.1, 0.3, 0.5, 1.0)
"""DCASE's second one: classes must not be confused; where exactly an event lies matters less."""


@dataclass(frozen=True)
class Counts:
    """Of all recordings at one threshold.

    Attributes:
        right: [C] events that are found.
        false: [C] detections that are wrong.
        crossed: [C, C] of those of a class (rows) that events of another class (columns) explain.
    """

    right: NDArray[np.int64]
    false: NDArray[np.int64]
    crossed: NDArray[np.int64]


def count(
    truth: Sequence[Sequence[Event]], found: Sequence[Sequence[Event]], classes: int, scenario: Scenario
) -> Counts:
    """Compare the events of some recordings with those that were found at one threshold.

    Args:
        truth: of each recording, labels 0 to C - 1.
        found: of each recording; those of one class do not overlap.
        classes: C.
        scenario: what counts.
    """
    right, false = np.zeros((2, classes), np.int64)
    crossed = np.zeros((classes, classes), np.int64)
    for real, heard in zip(truth, found, strict=True):
        if not heard:
            continue
        real_at, heard_at = (
            np.array([(event.onset, event.offset) for event in part], np.float64).reshape(-1, 2)
            for part in (real, heard)
        )
        real_class, heard_class = (np.array([int(event.label) for event in part], np.int64) for part in (real, heard))
        shared = np.minimum(heard_at[:, None, 1], real_at[None, :, 1]) - np.maximum(
            heard_at[:, None, 0], real_at[None, :, 0]
        )
        shared = shared.clip(min=0)  # [found, truth] seconds
        same = heard_class[:, None] == real_class[None]
        lengths = heard_at[:, 1] - heard_at[:, 0]
        valid = (shared * same).sum(1) / lengths >= scenario.detection
        covered = (shared * same * valid[:, None]).sum(0) / (real_at[:, 1] - real_at[:, 0])
        np.add.at(right, real_class[covered >= scenario.truth], 1)
        np.add.at(false, heard_class[~valid], 1)
        for other in range(classes):
            share = shared[:, real_class == other].sum(1) / lengths
            confused = ~valid & (heard_class != other) & (share >= scenario.cross)
            np.add.at(crossed[:, other], heard_class[confused], 1)
    return Counts(right, false, crossed)


def score(
    counts: Sequence[Counts], truth: Sequence[Sequence[Event]], classes: int, duration: float, scenario: Scenario
) -> float:
    """Area below the curve of found events against false detections, in [0, 1].

    Args:
        counts: of :func:`count` at each threshold.
        truth: events of each recording.
        classes: C; those without an event do not count.
        duration: of all recordings, seconds.
        scenario: the same.
    """
    events, seconds = np.zeros(classes), np.zeros(classes)
    for event in (event for part in truth for event in part):
        events[int(event.label)] += 1
        seconds[int(event.label)] += event.offset - event.onset
    there = np.flatnonzero(events)
    if not len(there):
        return float("nan")
    nothing = np.zeros((len(there), 1))
    ratio = np.stack([one.right[there] / events[there] for one in counts], 1)  # [C, thresholds]
    rate = np.stack([one.false[there] * HOUR / duration for one in counts], 1)
    if len(there) > 1:
        cross = [one.crossed[np.ix_(there, there)] * HOUR / seconds[there] for one in counts]
        rate = rate + scenario.confusion * np.stack([one.sum(1) / (len(there) - 1) for one in cross], 1)
    ratio, rate = np.concatenate([ratio, nothing], 1), np.concatenate([rate, nothing], 1)
    places = np.unique(rate)
    curves = np.stack([_staircase(places, *pair) for pair in zip(rate, ratio, strict=True)])
    height = np.maximum(curves.mean(0) - scenario.spread * curves.std(0), 0)
    ends = np.append(places, np.inf).clip(max=scenario.most)
    return float((np.diff(ends) * height).sum() / scenario.most)


def _staircase(
    places: NDArray[np.float64], rate: NDArray[np.float64], ratio: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Highest ratio that is reached with no more than each rate of ``places``."""
    order = np.argsort(rate, kind="stable")
    highest = np.maximum.accumulate(ratio[order])
    return highest[np.searchsorted(rate[order], places, side="right") - 1]
