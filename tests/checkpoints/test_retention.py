"""Which checkpoints stay."""

from __future__ import annotations

import math

import pytest

from foundation.checkpoints import retention
from foundation.checkpoints.retention import Policy
from foundation.errors import UserError


def kept(policy: Policy, steps, figures=None) -> list[int]:
    return [step for step, why in policy.reasons(steps, figures or {}).items() if why]


def test_the_newest_stay():
    assert kept(Policy(2), [30, 10, 20]) == [20, 30]
    assert kept(Policy(2), [10]) == [10]
    assert kept(Policy(2), []) == []


def test_every_nth_stays_for_good():
    assert kept(Policy(2, keep_every=20), range(10, 100, 10)) == [20, 40, 60, 80, 90]


def test_the_best_stays_and_the_later_of_equals():
    figures = {10: {"probe/knn_top1": 0.5}, 20: {"probe/knn_top1": 0.7}, 30: {"probe/knn_top1": 0.7}, 40: {"loss": 9.0}}
    policy = Policy(2, keep_best="probe/knn_top1")
    assert kept(policy, [10, 20, 30, 40, 50, 60], figures) == [30, 50, 60]
    reasons = policy.reasons([10, 20, 30, 40, 50, 60], figures)
    assert reasons[30] == ["best probe/knn_top1 (0.7)"] and reasons[60] == ["newest"] and reasons[50] == ["last 2"]
    assert kept(policy, [20, 50, 60], {}) == [50, 60]


def test_policy_and_figures_survive_and_nan_is_no_best(tmp_path):
    policy = Policy(3, 100, "probe/knn_top1")
    retention.write(tmp_path, policy, {5: retention.finite({"a": 0.25, "b": math.nan, "c": "no"})})
    assert retention.read(tmp_path) == (policy, {5: {"a": 0.25}})


def test_without_a_file_the_defaults_hold_and_a_damaged_one_is_named(tmp_path):
    """By the defaults `checkpoint prune` would remove what the lost policy kept."""
    assert retention.read(tmp_path) == (Policy(), {})
    policy = '{"keep_last": 3, "keep_every": null, "keep_best": null}'
    for text in (
        "",
        "[]",
        '{"policy": {"keep": 3}, "figures": {}}',
        f'{{"policy": {policy}, "figures": {{"x": {{}}}}}}',
    ):
        (tmp_path / retention.NAME).write_text(text)
        with pytest.raises(UserError, match=r"retention\.json is damaged"):
            retention.read(tmp_path)
        said: list[str] = []
        assert retention.figures_or_none(tmp_path, said.append) == {} and len(said) == 1
