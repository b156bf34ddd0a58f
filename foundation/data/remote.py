"""Questions to storages, asked until there is an answer, with growing pauses between the attempts."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from typing import TypeVar

from foundation.data.addresses import CHUNK, READ_SECONDS, RemoteError, Stat, shown
from foundation.data.shard_bytes import ShardError
from foundation.data.storages import storage_of

T = TypeVar("T")

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt; jittered, see :func:`rest`."""

_MOST_ANSWER = 256 << 20  # bytes of an index at most


def rest(error: RemoteError, attempt: int) -> None:
    """Wait before the next attempt: the table's pause, times 0.75 to 1.25 by address, process and attempt.

    No random generator is touched, and a thousand workers do not come back at the same moment.

    Args:
        error: of the attempt.
        attempt: its number, from 0.

    Raises:
        RemoteError: the same with the number of attempts, where another one makes no sense.
    """
    if not error.again or attempt >= len(PAUSES):
        if not attempt:
            raise error
        detail = f"{error.detail} (attempt {attempt + 1} of {len(PAUSES) + 1})"
        raise RemoteError(error.address, error.reason, detail, False) from error
    text = f"{error.address} {os.getpid()} {attempt}".encode()
    jitter = 0.75 + hashlib.blake2b(text, digest_size=1).digest()[0] / 510
    time.sleep(max(PAUSES[attempt] * jitter, min(error.wait, READ_SECONDS)))


def persist(address: str, question: Callable[[], T]) -> T:
    """Ask until there is an answer, with growing pauses, a bounded number of times.

    Raises:
        RemoteError: of the last attempt, with the number of attempts.
    """
    for attempt in range(len(PAUSES) + 1):
        try:
            return question()
        except RemoteError as error:
            rest(error, attempt)
    raise AssertionError("unreachable")


def fetch_text(address: str) -> str | None:
    """A small text file, or None when there is none.

    Raises:
        RemoteError: it cannot be had, or is too large.
    """
    storage = storage_of(address)

    def ask() -> str | None:
        parts, size = [], 0
        try:
            for part in storage.stream(address, 0):
                parts.append(part)
                size += len(part)
                if size > _MOST_ANSWER:
                    raise RemoteError(shown(address), "too_large", f"more than {_MOST_ANSWER:,} bytes", False)
        except RemoteError as error:
            if error.reason == "missing":
                return None
            raise
        try:
            return b"".join(parts).decode()
        except UnicodeDecodeError as error:
            raise RemoteError(shown(address), "corrupt", "not UTF-8 text") from error

    return persist(address, ask)


class RangeReader:
    """A remote shard of which parts are asked for, read ahead while one part follows another.

    Args:
        address: of the shard.
        name: of it, for messages.
        stat: of it, when it was opened.

    Attributes:
        ahead: read more than is asked for while the questions follow one another.
    """

    def __init__(self, address: str, name: str, stat: Stat) -> None:
        self.address, self.name, self.size, self.tag = address, name, stat.size or 0, stat.tag
        self.ahead = True
        self._begin, self._data = 0, b""

    def pread(self, size: int, offset: int) -> bytes:
        """As ``os.pread``.

        Raises:
            ShardError: the storage does not answer.
        """
        end = min(offset + size, self.size)
        if end <= offset:
            return b""
        known = self._begin + len(self._data)
        if not self._begin <= offset <= end <= known:
            # Headers of small members lie close together: one large answer holds many of them.
            near = self.ahead and 0 <= offset - known < CHUNK
            wanted = min(self.size, max(end, offset + 4 * CHUNK) if near else end)
            try:
                storage = storage_of(self.address)
                data = persist(self.address, lambda: storage.read(self.address, offset, wanted, self.tag))
            except RemoteError as error:
                raise ShardError(self.name, error.reason, error.detail) from error
            self._begin, self._data = offset, data
        return self._data[offset - self._begin : end - self._begin]
