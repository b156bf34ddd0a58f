"""Where the bytes of a shard come from when it is no local file: HTTP, fsspec's file systems, a program's output.

A storage answers three questions: how large is it, what is between two bytes, and what comes from one byte on. A
server is not trusted: lengths, ranges and versions are compared with what was asked for, so that a lie is an error and
never data. Retries with growing pauses stand around each question (:func:`persist`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from foundation.data.tar import ShardError
from foundation.errors import FoundationError, UserError
from foundation.redact import MASK, has_password, is_masked, redact

T = TypeVar("T")

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt; jittered, see :func:`rest`."""

CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0
SLOWEST = 1024
"""Bytes per second, over :data:`READ_SECONDS`, below which a server counts as stalled."""

CHUNK = 1 << 20  # bytes asked of a socket at once
_PART = 8 << 20  # bytes of one request where a file system gives ranges only
_MOST_ANSWER = 256 << 20  # bytes of an index at most

_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.:-]*://")
_PIPE = "pipe:"


class RemoteError(FoundationError):
    """A question to a storage that failed.

    Args:
        address: that was asked, without secrets.
        reason: one of :data:`foundation.errors.REASONS`.
        detail: what happened, for a person.
        again: another attempt may help.
        wait: seconds that the server asked to be left alone.
    """

    exit_code = 3

    def __init__(self, address: str, reason: str, detail: str, again: bool = True, wait: float = 0.0) -> None:
        super().__init__(f"{address}: {detail}")
        self.address, self.reason, self.again, self.wait = redact(address), reason, again, wait
        self.detail = redact(detail)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.address, self.reason, self.detail, self.again, self.wait)


@dataclass(frozen=True)
class Stat:
    """A remote file.

    Attributes:
        size: in bytes, None when only the end will tell.
        tag: changes when the content does (entity tag, version or date), empty when unknown.
    """

    size: int | None
    tag: str = ""


class Storage(Protocol):
    """What is asked of a kind of storage. Every method raises :class:`RemoteError`."""

    def stat(self, address: str) -> Stat: ...

    def read(self, address: str, begin: int, end: int, tag: str = "") -> bytes:
        """Exactly the bytes between two places; ``tag`` is that of the version wanted."""
        ...

    def stream(self, address: str, begin: int, tag: str = "") -> Iterator[bytes]:
        """What comes from one byte on, in pieces; ``tag`` is that of the version wanted."""
        ...


def is_remote(text: str) -> bool:
    """Whether a pattern is an address rather than a path."""
    return text.startswith(_PIPE) or bool(_ADDRESS.match(text))


def is_pipe(text: str) -> bool:
    """Whether a pattern is the output of a program."""
    return text.startswith(_PIPE)


def is_http(text: str) -> bool:
    """Whether an address is of the web."""
    return text.startswith(("http://", "https://"))


def shown(address: str) -> str:
    """An address as it may be printed and logged: without password and signature."""
    if not is_http(address):
        return redact(address)
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def check_secrets(address: str) -> None:
    """Refuse an address that cannot be used as it stands, or that tells who asks.

    Raises:
        UserError: it has a password (or, over HTTP, a user), or has lost its signature.
    """
    if has_password(address):
        raise UserError(
            f"{redact(address)}: an address must not hold a user name and password: it is written down with the run. "
            "Put them into ~/.netrc (HTTP), the environment, or the storage's own configuration (docs/remote-shards.md)"
        )
    if is_masked(address):
        raise UserError(
            f"{redact(address)}: its secrets ({MASK}) were left out when it was written down. Give the address anew, "
            "such as data.shards=ADDRESS"
        )


def beside(address: str, name: str) -> str:
    """Address of another file in the same folder."""
    if not is_http(address):
        return address.rpartition("/")[0] + "/" + name
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rpartition("/")[0] + "/" + name, parts.query, ""))


def name_of(address: str) -> str:
    """Last part of the path."""
    path = urlsplit(address).path if is_http(address) else address
    return path.rstrip("/").rpartition("/")[2]


def local_path(address: str) -> str:
    """Path of a ``file://`` address."""
    return unquote(urlsplit(address, allow_fragments=False).path)


def storage_of(address: str) -> Storage:
    """The storage that an address belongs to.

    Raises:
        UserError: the package for it is not installed, or there is no such kind.
    """
    from foundation.data import storages

    return storages.find(address)


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


def needs(package: str, address: str, extra: bool = True) -> UserError:
    """The error for a package that is not installed."""
    command = "pip install 'foundation-pretrain[remote]'" if extra else f"pip install {package}"
    return UserError(f"{shown(address)} needs the package {package}: {command}")


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


def is_full(error: OSError) -> bool:
    """Whether an error means that there is no room: disk, quota, or the limit of a file's size."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
