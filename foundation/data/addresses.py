"""Addresses of shards that are no local files, and what is asked of the storages behind them.

A storage answers three questions: how large is it, what is between two bytes, and what comes from one byte on. A
server is not trusted: lengths, ranges and versions are compared with what was asked for, so that a lie is an error and
never data.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit, urlunsplit

from foundation.errors import FoundationError, UserError
from foundation.redact import MASK, has_password, is_masked, redact

CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0
SLOWEST = 1024
"""Bytes per second, over :data:`READ_SECONDS`, below which a server counts as stalled."""

CHUNK = 1 << 20  # bytes asked of a socket at once
PART = 8 << 20  # bytes of one request where a file system gives ranges only

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


def needs(package: str, address: str, extra: bool = True) -> UserError:
    """The error for a package that is not installed."""
    command = "pip install 'foundation-pretrain[remote]'" if extra else f"pip install {package}"
    return UserError(f"{shown(address)} needs the package {package}: {command}")


def is_full(error: OSError) -> bool:
    """Whether an error means that there is no room: disk, quota, or the limit of a file's size."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
