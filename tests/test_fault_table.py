"""docs/reliability.md names every fault that the tests inject, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from foundation.errors import REASONS
from tests.fault_table import FAILS, NO_WORDS, Fault, FaultTable, Result, listed, table

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_names_every_injected_fault_and_no_other(pytestconfig):
    """Of the tests that this run has collected: all of them when the whole suite runs."""
    on_page = listed((ROOT / "docs" / "reliability.md").read_text(encoding="utf-8"))
    collected = pytestconfig.pluginmanager.get_plugin("fault-table")
    assert not collected.faults - on_page.keys(), "not in docs/reliability.md yet: run 'make faults'"
    assert not collected.stale(on_page), "no such test any more: run 'make faults'"
    speechless = [fault for fault, text in on_page.items() if text in ("", NO_WORDS, FAILS)]
    assert not speechless, "call happened(...) in these tests, make them pass, and run 'make faults'"


def test_the_page_explains_every_reason_in_the_words_of_the_program():
    page = (ROOT / "docs" / "fix-an-error.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", page, re.MULTILINE))
    assert rows == REASONS


def test_the_table_keeps_what_was_not_tried():
    one, two = Fault(7, "a byte | flipped", "tests/test_x.py::test_one"), Fault(16, "cut", "tests/test_x.py::test_two")
    results = {one: Result(["refused", "named", "refused"])}
    assert listed(table({one, two}, results, {two: "as before"})) == {one: "refused; named", two: "as before"}
    assert listed(table({one, two}, {one: Result(["x"], failed=True)}, {})) == {one: FAILS, two: NO_WORDS}
    assert listed(table({two}, {two: Result(skipped="no root")}, {}))[two] == "not tried: no root"


def test_rows_without_a_test_are_stale():
    here, gone = Fault(7, "a", "tests/test_fault_table.py::test_gone"), Fault(7, "b", "tests/no_such_file.py::test")
    elsewhere = Fault(7, "c", "tests/conftest.py::not_collected")
    plugin = FaultTable(None)
    plugin.files.add("tests/test_fault_table.py")
    assert plugin.stale({here, gone, elsewhere}) == {here, gone}


def test_a_page_without_a_table_lists_nothing():
    assert listed("# Title\n\n| 1 | a | b | `c` |\n") == {}
