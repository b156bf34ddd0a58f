"""Curves of any length in bounded memory."""

from __future__ import annotations

import random

import pytest

from foundation.watch.series import MOST_POINTS, Series


def test_few_values_are_kept_as_they_are():
    series = Series()
    for step in range(1, 101):
        series.add(step, step / 8)
    assert series.points() == {"x": list(range(1, 101)), "y": [step / 8 for step in range(1, 101)]}
    assert series.points(98) == {"x": [99, 100], "y": [99 / 8, 100 / 8]}


def test_many_values_are_joined_and_a_single_spike_stays_visible():
    chance, series, values = random.Random(0), Series(), []
    for step in range(1, 50_002):
        values.append(1000.0 if step == 31_007 else chance.random())
        series.add(step, values[-1])
    points = series.points()
    assert MOST_POINTS / 2 <= len(series) <= MOST_POINTS and points["x"][-1] == 50_001
    assert max(points["high"]) == 1000 and min(points["low"]) == pytest.approx(min(values), rel=1e-5)
    begin = 0
    for end, mean in zip(points["x"], points["y"], strict=True):
        assert mean == pytest.approx(sum(values[begin:end]) / (end - begin), rel=1e-5)
        begin = end
    assert series.best == (31_007, 1000.0) and series.last == values[-1]


def test_who_has_all_points_but_the_last_one_gets_the_rest():
    """As long as the generation is the same, the page may keep what it has but the last point."""
    series, page, generation = Series(), {"x": [], "y": []}, -1
    for step in range(1, 5_001):
        series.add(step, float(step % 97))
        if step % 149 == 0:
            start = max(0, len(page["x"]) - 1) if series.generation == generation else 0
            generation, news = series.generation, series.points(start)
            page = {key: page[key][:start] + news[key] for key in ("x", "y")}
            assert page == {key: series.points()[key] for key in ("x", "y")}


def test_a_run_that_goes_back_takes_its_points_back():
    series = Series()
    for step in range(10, 110, 10):
        series.add(step, float(step))
    before = series.generation
    series.add(50, 1.0)
    assert series.points() == {"x": [10, 20, 30, 40, 50], "y": [10, 20, 30, 40, 1]}
    assert series.generation > before and series.best == (40, 40.0)
