"""The bytes of a shard: what they are read from, one member's payload, and what is raised where that fails."""

from __future__ import annotations

import os
from typing import Protocol, TypeAlias

from foundation.errors import FoundationError, SampleError

MAX_MEMBER_BYTES = 1 << 31
"""A larger member is refused: files may have holes, so that a small disk can hold a member that no memory can."""


class ShardError(FoundationError):
    """A shard that cannot be read as a whole.

    Args:
        shard: its path.
        reason: one of :data:`foundation.errors.REASONS`.
        detail: what is wrong, for a person.
        key: of the sample that is to blame, if it is one.
        member: its name in the archive.
    """

    exit_code = 3

    def __init__(self, shard: str, reason: str, detail: str, key: str = "", member: str = "") -> None:
        super().__init__(f"{shard}: {detail}")
        self.shard, self.reason, self.detail, self.key, self.member = shard, reason, detail, key, member

    def __reduce__(self) -> tuple[type, tuple[str, str, str, str, str]]:
        return type(self), (self.shard, self.reason, self.detail, self.key, self.member)


class Ranges(Protocol):
    """A shard that is no local file: parts of it are asked for. Raises :class:`ShardError` where that fails."""

    @property
    def size(self) -> int:
        """Bytes of the whole."""
        ...

    def pread(self, size: int, offset: int) -> bytes:
        """As ``os.pread``: fewer bytes only at the end."""
        ...


Source: TypeAlias = int | Ranges
"""Where a shard is read from: a file descriptor, or ranges of something remote."""


def read_payload(source: Source, shard: str, key: str, extension: str, offset: int, size: int, total: int) -> bytes:
    """The bytes of one member. What the archive claims is checked before memory is asked for.

    Args:
        source: of the archive.
        shard: its path, for messages.
        key: of the sample, for messages.
        extension: of the member, for messages.
        offset: where the payload begins.
        size: of the payload, as its header says.
        total: bytes of the file.

    Raises:
        SampleError: reason ``truncated``, ``too_large`` or ``unreadable``.
    """
    if offset + size > total:
        left = max(0, total - offset)
        detail = f"member .{extension} has {left} of {size} bytes: the shard has been cut off"
        raise SampleError(shard, key, "truncated", detail)
    if size > MAX_MEMBER_BYTES:
        detail = f"member .{extension} has {size:,} bytes, more than {MAX_MEMBER_BYTES:,}"
        raise SampleError(shard, key, "too_large", detail)
    parts: list[bytes] = []
    missing = size
    while missing > 0:
        try:
            part = pread(source, min(missing, 1 << 30), offset + size - missing)
        except ShardError as error:
            raise SampleError(shard, key, error.reason, f"member .{extension}: {error.detail}") from error
        except OSError as error:
            raise SampleError(shard, key, "unreadable", f"member .{extension}: {error.strerror}") from error
        if not part:
            detail = f"member .{extension} has {size - missing} of {size} bytes: the shard has been cut off"
            raise SampleError(shard, key, "truncated", detail)
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def pread(source: Source, size: int, offset: int) -> bytes:
    """Bytes of a shard, as ``os.pread``: fewer only at the end."""
    return os.pread(source, size, offset) if isinstance(source, int) else source.pread(size, offset)
