"""docs/reliability.md names every fault that the tests inject, and no other."""

from __future__ import annotations

from pathlib import Path

from tests.fault_table import NO_WORDS, Fault, Result, declared, listed, table

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_names_every_injected_fault_and_no_other():
    on_page = listed((ROOT / "docs" / "reliability.md").read_text(encoding="utf-8"))
    in_tests = declared()
    assert not in_tests - on_page.keys(), "not in docs/reliability.md yet: run 'make faults'"
    assert not on_page.keys() - in_tests, "no such test any more: run 'make faults'"
    speechless = [fault for fault, text in on_page.items() if text in ("", NO_WORDS, "**the test fails**")]
    assert not speechless, "call happened(...) in these tests, make them pass, and run 'make faults'"


def test_marks_are_found_in_the_source(tmp_path):
    (tmp_path / "tests" / "deep").mkdir(parents=True)
    (tmp_path / "tests" / "deep" / "test_x.py").write_text(
        "import pytest\n"
        "@pytest.mark.fault(7, 'a byte | flipped')\n@pytest.mark.slow\ndef test_one(): ...\n"
        "@pytest.mark.parametrize('cut', [pytest.param(1, marks=pytest.mark.fault(16, 'cut')), 2])\n"
        "def test_two(cut): ...\n"
        "def test_three(): ...\n"
    )
    one = Fault(7, "a byte | flipped", "tests/deep/test_x.py::test_one")
    two = Fault(16, "cut", "tests/deep/test_x.py::test_two")
    assert declared(tmp_path / "tests") == {one, two}
    results = {one: Result(["refused", "named", "refused"])}
    page = table({one, two}, results, {two: "as before"})
    assert listed(page) == {one: "refused; named", two: "as before"}
    assert listed(table({one, two}, {one: Result(["x"], failed=True)}, {})) == {
        one: "**the test fails**",
        two: NO_WORDS,
    }


def test_a_page_without_a_table_lists_nothing():
    assert listed("# Title\n\n| 1 | a | b | `c` |\n") == {}
