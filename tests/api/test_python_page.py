"""The blocks of docs/python.md run in their order, as a reader runs them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.api.conftest import draw

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"


@pytest.mark.slow
def test_every_block_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number in range(40):
        draw(tmp_path / "photographs" / ("cats", "dogs")[number % 2] / f"{number:02d}.png", number % 2, number)
    names: dict[str, object] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert "done 12 runs/mine" in printed and "knn top1" in printed and "cats" in printed
