"""The value of a key that a part of a recipe leaves to the whole."""

from __future__ import annotations

from typing import Any, final


@final
class _Inherited:
    """Not given, which is not the same as null."""

    def __repr__(self) -> str:
        return "the recipe's"


INHERITED: Any = _Inherited()
"""Stands in a field that the recipe's own key of that name fills. It is never written into a file."""
