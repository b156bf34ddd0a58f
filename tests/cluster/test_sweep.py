"""Sweeps: which runs come of which words."""

from __future__ import annotations

import pytest

from foundation.cluster.sweep import chosen, variants
from foundation.errors import UserError


def test_all_combinations_are_runs_and_the_last_key_changes_fastest():
    found = variants(["a.b=1,2", "seed=0,1"])
    assert [item.overrides for item in found] == [
        ("a.b=1", "seed=0"), ("a.b=1", "seed=1"), ("a.b=2", "seed=0"), ("a.b=2", "seed=1"),
    ]  # fmt: skip
    assert found[1].name == "a.b=1,seed=1"


def test_a_comma_within_brackets_or_quotes_parts_no_values():
    found = variants(["views.scale=[0.1, 0.5],[0.2, 1.0]", "name='a,b',c"])
    assert [item.overrides[0] for item in found[::2]] == ["views.scale=[0.1, 0.5]", "views.scale=[0.2, 1.0]"]
    assert [item.overrides[1] for item in found[:2]] == ["name='a,b'", "name=c"]
    assert all("/" not in item.name and " " not in item.name for item in found)


@pytest.mark.parametrize(
    "words", [["seed"], ["seed="], ["=1"], ["seed=1,,2"], ["seed=1", "seed=2"], ["seed=1,1"], ["a=x y,x/y"]]
)
def test_what_makes_no_sweep_is_refused(words):
    with pytest.raises(UserError, match="--sweep"):
        variants(words)


def test_more_runs_than_an_array_holds_are_refused():
    with pytest.raises(UserError, match="10,000 runs"):
        variants(["a=" + ",".join(map(str, range(100))), "b=" + ",".join(map(str, range(100)))])


@pytest.mark.parametrize(
    "values", ["1e-3,0.001", "1,1.0", "0.1, .1", "true,True", "[1e-3, 2],[0.001,2.0]", "{a: 1, b: 2},{b: 2, a: 1.0}",
               "x,'x'", "null,~", "1000,1e3"],
)  # fmt: skip
def test_values_that_mean_the_same_are_refused(values):
    with pytest.raises(UserError, match=r"two values are the same: .* and "):
        variants([f"a={values}"])


@pytest.mark.parametrize("values", ["1e-3,1e-4", "1,'1'", "true,'true'", "9007199254740992,9007199254740993", "[1],1"])
def test_values_that_differ_are_not(values):
    assert len(variants([f"a={values}"])) == 2


def test_the_runs_that_are_looked_at_have_all_values_where_that_is_possible():
    found = variants(["a=" + ",".join(map(str, range(7))), "b=0,1,2", "c=0,1,2,3,4"])
    some = chosen(found, 8)
    assert 7 <= len(some) <= 8 and {word for item in some for word in item.overrides} == {
        word for item in found for word in item.overrides
    }
    assert chosen(found[:8], 8) == found[:8]
    assert len(chosen(variants(["a=" + ",".join(map(str, range(500)))]), 8)) == 8
