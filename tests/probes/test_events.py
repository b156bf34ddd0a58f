"""Frames to events, and their agreement, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from foundation.probes import events
from foundation.probes.events import Event

TIMES = np.stack([np.arange(10) / 10, np.arange(1, 11) / 10], axis=1)


def test_frames_and_events_are_each_others_inverse():
    truth = [Event(0, 0.1, 0.4), Event(1, 0.3, 0.6), Event(0, 0.8, 1.0)]
    there = events.active(truth, TIMES, 2)
    assert there[:, 0].nonzero()[0].tolist() == [1, 2, 3, 8, 9] and there[:, 1].nonzero()[0].tolist() == [3, 4, 5]
    found = events.events_of(there, TIMES)
    assert [e.label for e in found] == [0, 0, 1]
    assert [(round(e.onset, 6), round(e.offset, 6)) for e in found] == [(0.1, 0.4), (0.8, 1.0), (0.3, 0.6)]


def test_median_removes_what_is_short():
    scores = np.zeros((9, 1), np.float32)
    scores[2], scores[5:8] = 1, 1
    assert events.median(scores, 3)[:, 0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 0]
    assert events.median(scores, 1) is scores


def test_agreement_by_hand():
    truth = [Event(0, 1.0, 2.0), Event(0, 3.0, 3.2), Event(1, 0.0, 1.0)]
    cases = [
        ([Event(0, 1.15, 2.4)], [1, 0, 1]),  # onset within 0.2 s, offset within half of a second
        ([Event(0, 1.25, 2.0)], [0, 1, 2]),  # onset too late
        ([Event(0, 3.0, 3.45)], [0, 1, 2]),  # offset off by more than the collar, which exceeds half its length
        ([Event(0, 1.0, 2.0), Event(0, 1.1, 2.0)], [1, 1, 1]),  # a true event counts once
    ]
    for found, expected in cases:
        assert events.agreement(truth, found, 2)[0].tolist() == expected
        assert events.agreement(truth, found, 2)[1].tolist() == [0, 0, 1]
    # Two overlapping events: greedy pairing in order of onsets would lose one.
    pair = [Event(0, 1.0, 2.0), Event(0, 1.3, 2.3)]
    assert events.agreement(pair, [Event(0, 1.15, 2.1), Event(0, 0.85, 2.0)], 1).tolist() == [[2, 0, 0]]


def test_f1_and_its_interval():
    counts = np.array([[3, 1, 1], [0, 2, 4], [0, 5, 0]])
    assert events.f1(counts) == pytest.approx((6 / 8 + 0) / 2)  # the third never occurs
    assert np.isnan(events.f1(np.zeros((2, 3), np.int64)))
    each = np.random.default_rng(0).integers(0, 5, (50, 2, 3))
    low, high = events.f1_interval(each)
    assert low < events.f1(each.sum(0)) < high < low + 0.3
    truth, found = np.array([[1, 0], [1, 1]], bool), np.array([[1, 1], [0, 1]], bool)
    assert events.frame_agreement(truth, found).tolist() == [[1, 0, 1], [1, 1, 0]]
