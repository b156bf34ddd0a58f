"""What can be wrong with a recording, for every reader of sound."""

from __future__ import annotations


class AudioError(ValueError):
    """What is wrong with one audio file.

    Args:
        reason: one of :data:`foundation.errors.REASONS`.
        detail: for a person.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
