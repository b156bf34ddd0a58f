"""Errors that end a command, each with the exit code that a scheduler or a script can act on."""

from __future__ import annotations


class FoundationError(Exception):
    """An error whose message is meant for the user: printed without a traceback.

    Attributes:
        exit_code: process exit status (0 done, 2 the user's mistake, 3 too many bad samples, 4 numerics,
            75 please start the same command again).
    """

    exit_code = 1


class UserError(FoundationError):
    """Something the user can fix: a wrong key, a missing file, an impossible setting."""

    exit_code = 2


class SampleError(FoundationError):
    """One sample that cannot be used. Names shard, key and reason; the stream counts it and goes on.

    Args:
        shard: path or URL of the shard.
        key: key of the sample inside the shard.
        reason: a short fixed word to count by, such as ``decode`` or ``missing``.
        detail: what exactly is wrong, for a person.
    """

    exit_code = 3

    def __init__(self, shard: str, key: str, reason: str, detail: str) -> None:
        super().__init__(f"{shard}: sample {key!r}: {reason}: {detail}")
        self.shard, self.key, self.reason, self.detail = shard, key, reason, detail

    def __reduce__(self) -> tuple[type, tuple[str, str, str, str]]:
        return type(self), (self.shard, self.key, self.reason, self.detail)


class DataBudgetError(FoundationError):
    """More bad samples than the recipe allows."""

    exit_code = 3


class NumericsError(FoundationError):
    """A loss or gradient that is not finite."""

    exit_code = 4


class RequeueRequest(FoundationError):
    """The run was asked to stop, has saved its state, and wants to be started again."""

    exit_code = 75
