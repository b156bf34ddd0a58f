"""Rooms whose contracts are types: nothing in them asks an object what it happens to have."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "foundation"


def probes(text: str) -> list[int]:
    """Lines that call ``hasattr``, or ``getattr`` with a name that is written down."""
    calls = [
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    return [
        call.lineno
        for call in calls
        if call.func.id == "hasattr"
        or (call.func.id == "getattr" and (len(call.args) > 2 or isinstance(call.args[1], ast.Constant)))
    ]


@pytest.mark.parametrize("folder", ["engine", "branches", "objectives", "jobs", "masks", "heads"])
def test_nothing_is_probed(folder):
    found = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in sorted((PACKAGE / folder).rglob("*.py"))
        for line in probes(path.read_text(encoding="utf-8"))
    ]
    assert not found, f"write a contract (a Protocol, a dataclass) in the place of: {', '.join(found)}"


def test_a_probe_is_found():
    text = "if hasattr(a, 'b'):\n    c = getattr(a, 'b', None)\nd = getattr(self, name)\n"
    assert probes(text) == [1, 2]
