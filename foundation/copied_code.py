"""A copy of the code says which commit it is of: it has no git that could be asked."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from foundation import schema

COMMIT = "commit.json"
"""File beside the copied package."""


class Commit(TypedDict):
    """``commit`` of the code and whether it was ``modified`` since; null where that was unknown."""

    commit: str | None
    modified: bool | None


def commit_of(root: Path) -> Commit | None:
    """What the copy in a folder says; None where it is none."""
    try:
        return schema.read_json(Commit, root / COMMIT)
    except (FileNotFoundError, schema.FormError):
        return None
