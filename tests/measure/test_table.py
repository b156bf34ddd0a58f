"""The page of a report."""

from __future__ import annotations

from foundation.measure.table import REHEARSAL, cell, grid, markdown

REPORT = {
    "command": "foundation bench gpu --out=x",
    "seed": 3,
    "started": "2026-01-01T00:00:00+00:00",
    "rehearsal": True,
    "machine": {"gpu": "NVIDIA H100", "cores": 16, "driver": None, "versions": {"torch": "2.14.1"}},
    "parts": {
        "speed": {
            "title": "Speed", "state": "timed out", "seconds": 12.3, "limit_seconds": 12.0,
            "rows": [{"case": "a", "samples_per_second": 1234.5}, {"case": "b|c", "batch": 4}],
            "notes": ["one note"], "tail": "last\nwords",
        }
    },
}  # fmt: skip


def test_a_page_says_command_machine_and_what_was_not_done():
    page = markdown(REPORT)
    assert "`foundation bench gpu --out=x` (seed 3, 2026-01-01T00:00:00+00:00)" in page
    assert REHEARSAL in page and "Machine: gpu NVIDIA H100, cores 16." in page and "torch 2.14.1" in page
    assert "### Speed" in page and "12 s, **timed out**" in page
    assert "- one note" in page and "```text\nlast\nwords\n```" in page
    assert REHEARSAL not in markdown(REPORT | {"rehearsal": False})


def test_a_table_has_every_column_that_a_row_has():
    assert grid(REPORT["parts"]["speed"]["rows"]) == [
        "| case | samples per second | batch |",
        "|---|---|---|",
        "| a | 1,234 |  |",
        "| b\\|c |  | 4 |",
    ]


def test_numbers_keep_three_digits():
    assert [cell(value) for value in (None, 7, 12345, 0.012345, 56.789, 1234.5, True, "x")] == [
        "", "7", "12,345", "0.0123", "56.8", "1,234", "True", "x"
    ]  # fmt: skip
