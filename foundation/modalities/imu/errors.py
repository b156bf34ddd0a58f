"""What is wrong with one recording."""

from __future__ import annotations


class ImuError(ValueError):
    """A recording that cannot be used; ``reason`` is one of :data:`foundation.errors.REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
