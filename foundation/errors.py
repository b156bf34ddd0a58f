"""Errors that end a command, each with the exit code that a scheduler or a script can act on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foundation.redact import redact

REASONS = {
    "missing": "a shard or a member that should be there is not",
    "unreadable": "the storage gave an error",
    "empty": "no bytes, or no samples",
    "truncated": "cut off before its end",
    "corrupt": "bytes have changed: not a tar, a damaged header, another SHA-256 than the index says",
    "compressed": "a compressed archive, whose members cannot be read at their place",
    "unsafe": "a name that leaves the archive, a link or a device, a sparse member, a member that needs pickle",
    "duplicate": "the same key, member or shard twice",
    "scattered": "the members of one sample are not neighbours",
    "stray": "a member that belongs to no sample",
    "index": "a shard and its index disagree",
    "too_large": "more bytes or pixels than the limit; refused before memory is asked for",
    "decode": "the bytes are not what the extension says",
    "shape": "another number type, shape or rate than its fellows",
    "not_finite": "NaN or infinity among the numbers",
    "gap": "a stretch of a recording is missing",
    "conflict": "the parts of one sample contradict each other",
    "too_short": "fewer samples, frames or points than are needed",
    "range": "most of the range or precision of the numbers is lost",
    "label": "a label that is no class number",
    "units": "numbers that hardly fit the unit that they are said to have",
}
"""The words by which bad data is counted in the metrics, in ``foundation data verify`` and in its report."""


class FoundationError(Exception):
    """An error whose message is meant for the user: printed without a traceback.

    Attributes:
        exit_code: process exit status (0 done, 2 the user's mistake, 3 too many bad samples, 4 numerics, 5 stalled,
            75 please start the same command again).

    Messages get into logs and into files of the run, so the secrets of addresses are masked in all of them.
    """

    exit_code = 1

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(redact(item) if isinstance(item, str) else item for item in arguments))


class UserError(FoundationError):
    """Something the user can fix: a wrong key, a missing file, an impossible setting."""

    exit_code = 2


class JoinError(UserError):
    """This process could not reach the others of its run: wrong variables, or a network or port that may do another
    time."""


class RecipeError(UserError):
    """Parts of a recipe that do not go together, all of them at once.

    Args:
        problems: key in the recipe (``objectives.0``) and text of each.
    """

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        texts = [text for _, text in self.problems]
        super().__init__(texts[0] if len(texts) == 1 else "\n".join([f"{len(texts)} problems", *texts]))


class SampleError(FoundationError):
    """One sample that cannot be used. Names shard, key and reason; the stream counts it and goes on.

    Args:
        shard: path or URL of the shard.
        key: key of the sample inside the shard.
        reason: one of :data:`REASONS`, to count by.
        detail: what exactly is wrong, for a person.
        trace: where an exception that nobody had foreseen was raised; empty for others.
    """

    exit_code = 3

    def __init__(self, shard: str, key: str, reason: str, detail: str, trace: str = "") -> None:
        super().__init__(f"{shard}: sample {key!r}: {reason}: {detail}")
        self.shard, self.key, self.reason, self.detail, self.trace = shard, key, reason, detail, trace

    def __reduce__(self) -> tuple[type, tuple[str, str, str, str, str]]:
        return type(self), (self.shard, self.key, self.reason, self.detail, self.trace)


@dataclass(frozen=True)
class Note:
    """Something worth knowing about a sample that can be used all the same; ``foundation data verify`` warns of it.

    A decoder puts a tuple of these into ``sample["__notes__"]``.

    Attributes:
        reason: one of :data:`REASONS`, to count by.
        detail: what exactly, for a person.
    """

    reason: str
    detail: str


class DataBudgetError(FoundationError):
    """More bad samples than the recipe allows."""

    exit_code = 3


class NumericsError(FoundationError):
    """A loss or gradient that is not finite, or features that have collapsed."""

    exit_code = 4


class DisagreementError(FoundationError):
    """The processes of a run no longer hold the same weights or statistics."""

    exit_code = 4


class StallError(FoundationError):
    """No step for too long. Never raised: a process that hangs is ended with this exit code by its watchdog."""

    exit_code = 5


class RequeueRequest(FoundationError):
    """The run was asked to stop, has saved its state, and wants to be started again."""

    exit_code = 75


class StopRequest(RequeueRequest):
    """A signal asked the run to stop, and its state is saved.

    Args:
        signal: that this process got, such as ``SIGTERM``; None where another process of the run got it.
        step: that is saved.
        because: a further sentence, with a space behind it.
    """

    def __init__(self, signal: str | None, step: int, because: str = "") -> None:
        super().__init__(
            f"stopped by {signal or 'another process'} after step {step:,}; saved. {because}"
            "Start the same command again to go on"
        )
        self.signal = signal


class PeerError(FoundationError):
    """Another process of the run was lost. Nothing of this one was saved; the last checkpoint stands."""

    exit_code = 75
