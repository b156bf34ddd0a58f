"""The polyphonic sound detection score against the numbers of the published program, and by hand.

psds_eval 0.5.3 does not run with the pandas and NumPy of today; ``tests/probes/record_psds_eval.py`` wrote its numbers.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from foundation.probes import psds
from foundation.probes.events import Event, segment_agreement

CLASSES, SECONDS = 3, 20.0
PUBLISHED = Path(__file__).with_name("psds_eval.json")


def drawn(seed: int, noise: float | None = None, of: list[list[Event]] | None = None) -> list[list[Event]]:
    """Events of 12 recordings; or what a detector with some noise finds of those that are given."""
    random = np.random.RandomState(seed)  # its stream stays the same in all versions of NumPy
    found: list[list[Event]] = []
    for number in range(12):
        own = []
        for label in range(CLASSES):
            now = random.uniform(0, 3)
            while of is None and now < SECONDS - 3:
                length = random.uniform(0.3, 2.5)
                own.append(Event(label, round(now, 3), round(now + length, 3)))
                now += length + random.uniform(0.5, 6)
        for event in of[number] if of else []:
            if random.random_sample() < 0.85:
                label = int(event.label) if random.random_sample() < 0.8 else int(random.randint(CLASSES))
                begin = max(0.0, event.onset + noise * random.standard_normal())
                own.append(
                    Event(label, begin, min(SECONDS, begin + (event.offset - event.onset) * random.uniform(0.7, 1.3)))
                )
        kept: list[Event] = []
        for event in sorted(own, key=lambda e: e.onset):  # events of a class do not overlap
            if all(e.label != event.label or e.offset <= event.onset for e in kept) and event.offset > event.onset:
                kept.append(event)
        found.append(kept)
    return found


SCENARIOS = {"fast": psds.FAST, "sure": psds.SURE, "own": psds.Scenario(0.4, 0.3, 0.5, 1.0, 0.0, most=300.0)}


def truth_and_points() -> tuple[list[list[Event]], list[list[list[Event]]]]:
    """What is there, and what six detectors, each worse than the one before, find of it."""
    truth = drawn(0)
    return truth, [drawn(1 + level, noise=0.02 + 0.06 * level, of=truth) for level in range(6)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_score_is_that_of_the_published_program(name):
    scenario, (truth, points) = SCENARIOS[name], truth_and_points()
    wanted = json.loads(PUBLISHED.read_text())["scenarios"][name]
    ours = [psds.count(truth, point, CLASSES, scenario) for point in points]
    for mine, right, false, crossed in zip(ours, wanted["right"], wanted["false"], wanted["crossed"], strict=True):
        np.testing.assert_array_equal(mine.right, right)
        np.testing.assert_array_equal(mine.false, false)
        np.testing.assert_array_equal(mine.crossed, crossed)
    assert any(mine.crossed.any() for mine in ours) and 0.02 < wanted["score"] < 0.98
    assert psds.score(ours, truth, CLASSES, 12 * SECONDS, scenario) == pytest.approx(wanted["score"], abs=1e-9)


def test_what_is_found_exactly_scores_one_and_nothing_scores_none():
    truth = drawn(0)
    for scenario in (psds.FAST, psds.SURE):
        right, nothing = (psds.count(truth, found, CLASSES, scenario) for found in (truth, [[]] * 12))
        assert psds.score([right], truth, CLASSES, 240.0, scenario) == 1.0
        assert psds.score([nothing], truth, CLASSES, 240.0, scenario) == 0.0
    assert np.isnan(psds.score([right], [[]] * 12, CLASSES, 240.0, psds.FAST))


def test_segments_are_those_that_an_event_touches():
    random = np.random.default_rng(3)
    for length in (1.0, 0.5):
        both = [
            [
                Event(int(random.integers(2)), begin, begin + random.uniform(0.05, 2))
                for begin in random.uniform(0, 9, 6)
            ]
            for _ in range(2)
        ]
        wanted = np.zeros((2, 3), np.int64)
        for label in range(2):
            for segment in range(int(np.ceil(9.5 / length))):
                there = [
                    any(
                        e.label == label and e.onset < (segment + 1) * length and e.offset > segment * length
                        for e in part
                    )
                    for part in both
                ]
                column = {(True, True): 0, (False, True): 1, (True, False): 2}.get(tuple(there))
                if column is not None:
                    wanted[label, column] += 1
        np.testing.assert_array_equal(segment_agreement(*both, 2, 9.5, length), wanted)
