"""The benches of neighbours and of the linear grid, at a size for tests."""

from __future__ import annotations

import json

import pytest

from foundation.cli import main


@pytest.mark.slow
def test_neighbours_are_all_found_and_memory_is_told(tmp_path, capsys):
    methods = ["foundation", "sklearn"]
    out = tmp_path / "n.json"
    words = ["--scale", "0.001", "--k", "5", "--threads", "1", "--methods", *methods, "--json", str(out)]
    assert main(["bench", "neighbours", *words]) == 0
    content = json.loads(out.read_text())
    assert [row["method"] for row in content["rows"]] == methods and content["bank"] == 1000
    assert all(row["recall"] == 1.0 for row in content["rows"])
    assert all(row["peak"] >= row["before"] > 0 for row in content["rows"])
    assert "100 queries x 1,000 rows x 384" in capsys.readouterr().out


@pytest.mark.slow
def test_the_linear_grid_is_timed_beside_one_head_after_the_other(tmp_path):
    out = tmp_path / "l.json"
    assert main(["bench", "linear", "--cases", "10000x384", "--scale", "0.01", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["cases"]["10000x384"]
    assert len(rows) == 4
    assert all(seconds > 0 and 0 < top1 <= 1 for seconds, top1 in rows.values())
