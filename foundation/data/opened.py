"""One shard, open for reading: a local file, a copy in the cache, or ranges of a remote file.

What a shard was when the run opened it is compared with what it is: the order of the stream was planned on that.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from foundation.data.addresses import RemoteError, is_pipe
from foundation.data.cache import Cache, CacheFullError, Expected, touch
from foundation.data.origins import Origin
from foundation.data.remote import RangeReader, persist
from foundation.data.shard_bytes import ShardError, Source
from foundation.data.storages import storage_of
from foundation.data.sums import digest_of
from foundation.data.tar import Table, scan
from foundation.errors import UserError

_RETRIES = (0.1, 0.5, 2.0)  # seconds to wait: shared file systems fail for a moment now and then
_TOUCH_SECONDS = 60.0  # so often a copy in use is marked as used
_log = logging.getLogger("foundation.data")
_told: set[str] = set()


@dataclass
class Opened:
    """A shard that can be read.

    Attributes:
        origin: where it comes from.
        source: descriptor or ranges.
        table: its samples.
        state: size and time of change of a file when it was scanned; None for ranges.
        touched: when the copy was last marked as used.
    """

    origin: Origin
    source: Source
    table: Table
    state: tuple[int, int] | None
    touched: float

    def check(self) -> None:
        """Refuse a local file that was written to since its table was made; keep a copy in the cache young.

        Raises:
            ShardError: bytes at the known places may be others by now.
        """
        if not isinstance(self.source, int) or self.state is None:
            return
        if self.origin.remote and time.monotonic() - self.touched > _TOUCH_SECONDS:
            touch(self.source)
            self.touched = time.monotonic()
        facts = os.fstat(self.source)
        if (facts.st_size, facts.st_mtime_ns) != self.state:
            reason = "truncated" if facts.st_size < self.state[0] else "corrupt"
            detail = f"was written to while it was being read: {self.state[0]:,} bytes then, {facts.st_size:,} now"
            raise ShardError(self.origin.name, reason, detail)

    def hold(self, first: int, end: int) -> None:
        """Of ranges: fetch all members of a sample with one question."""
        if not isinstance(self.source, int):
            begin = int(self.table.offsets[first])
            self.source.pread(int(self.table.offsets[end - 1] + self.table.sizes[end - 1]) - begin, begin)

    @property
    def changed(self) -> bool:
        """A copy in the cache that somebody wrote to since its table was made: the cache has to look at it again."""
        if not isinstance(self.source, int) or not self.origin.remote:
            return False
        facts = os.fstat(self.source)
        return (facts.st_size, facts.st_mtime_ns) != self.state

    @property
    def evicted(self) -> bool:
        """The copy has no name any more; its room on the disk comes back when it is closed."""
        return isinstance(self.source, int) and self.origin.remote and os.fstat(self.source).st_nlink == 0

    def close(self) -> None:
        """Give the descriptor back."""
        if isinstance(self.source, int):
            os.close(self.source)


def open_one(origin: Origin, cache: Cache | None) -> Opened:
    """Open a shard and find its samples.

    Args:
        origin: of the shard.
        cache: for copies of remote shards, None for ranges only.

    Raises:
        ShardError: it is not there, cannot be read, is damaged, or is not what it was.
        UserError: a package is not installed.
    """
    if not origin.remote:
        return _with_table(origin, _patiently(origin))
    if cache is not None:
        try:
            descriptor = cache.open(origin.address, origin.expected)
            assert descriptor is not None
            return _with_table(origin, descriptor)
        except CacheFullError as error:
            if is_pipe(origin.address):
                raise ShardError(
                    origin.name, "unreadable", f"the output of a program needs the cache: {error}"
                ) from error
            _tell(error.kind, str(error))
        except RemoteError as error:
            raise ShardError(origin.name, error.reason, error.detail) from error
    return open_ranges(origin)


def open_ranges(origin: Origin) -> Opened:
    """Open a remote shard without a copy; see :func:`open_one`."""
    if is_pipe(origin.address):
        raise ShardError(origin.name, "unreadable", "the output of a program needs the cache: set data.cache_gib")
    try:
        facts = persist(origin.address, lambda: storage_of(origin.address).stat(origin.address))
    except RemoteError as error:
        raise ShardError(origin.name, error.reason, error.detail) from error
    expected = origin.expected
    if expected.size is not None and facts.size != expected.size:
        reason = "truncated" if (facts.size or 0) < expected.size else "corrupt"
        raise ShardError(origin.name, reason, f"has {facts.size} bytes, expected {expected.size}")
    if expected.tag and facts.tag != expected.tag:
        raise ShardError(origin.name, "corrupt", "was replaced since the run opened it")
    reader = RangeReader(origin.address, origin.name, facts)
    table = scan(reader, origin.name)
    reader.ahead = False
    return Opened(origin, reader, table, None, time.monotonic())


def _with_table(origin: Origin, descriptor: int) -> Opened:
    try:
        facts = os.fstat(descriptor)
        state = (facts.st_size, facts.st_mtime_ns)
        if not origin.remote:
            _check_replaced(origin, descriptor, facts)
        return Opened(origin, descriptor, scan(descriptor, origin.name), state, time.monotonic())
    except BaseException:
        os.close(descriptor)
        raise


def _check_replaced(origin: Origin, descriptor: int, facts: os.stat_result) -> None:
    expected = origin.expected
    if expected.size is not None and facts.st_size != expected.size:
        reason = "truncated" if facts.st_size < expected.size else "corrupt"
        detail = f"was replaced since the run opened it: {expected.size:,} bytes then, {facts.st_size:,} now"
        raise ShardError(origin.name, reason, detail)
    if not expected.tag or str(facts.st_mtime_ns) == expected.tag:
        return
    # Copied again or touched: the same content is welcome, and the digest of the index can tell.
    if expected.sha256 and digest_of(descriptor) == expected.sha256:
        return
    when = datetime.fromtimestamp(facts.st_mtime, UTC).isoformat(" ", "seconds")
    proof = "its SHA-256 is not that of index.json" if expected.sha256 else "no index.json tells whether it is the same"
    raise ShardError(origin.name, "corrupt", f"was replaced since the run opened it (changed {when}; {proof})")


def check_digests(origins: Sequence[Origin], most_bytes: int) -> None:
    """Compare local shards with the SHA-256 of their index: one of equal size may have taken the place of another.

    Those written last are looked at first, as a shard that was replaced is younger than the others.

    Args:
        origins: of the shards; those of no index are passed over.
        most_bytes: stop when so many have been read; one shard is looked at in any case.

    Raises:
        UserError: naming the shard. One that cannot be read is passed over: its samples are counted as bad.
    """
    known = [origin for origin in origins if not origin.remote and origin.expected.sha256]
    seen = 0
    for origin in sorted(known, key=lambda one: int(one.expected.tag or 0), reverse=True):
        size = origin.expected.size or 0
        if seen and seen + size > most_bytes:
            return
        seen += size
        try:
            descriptor = _patiently(origin)
        except ShardError:
            continue
        try:
            found = digest_of(descriptor)
        except OSError:
            continue
        finally:
            os.close(descriptor)
        if found != origin.expected.sha256:
            raise UserError(
                f"{origin.name} is not the shard that its index.json speaks of (SHA-256 {found[:12]}…, there "
                f"{origin.expected.sha256[:12]}…): it was written again or replaced. Copy shards and index together, "
                "or make both anew"
            )


def _patiently(origin: Origin) -> int:
    for wait in (*_RETRIES, None):
        try:
            return os.open(origin.address, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if wait is None or error.errno in (errno.EACCES, errno.EISDIR):
                reason = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
                raise ShardError(origin.name, reason, f"cannot be opened: {error.strerror}") from error
            time.sleep(wait)
    raise AssertionError("unreachable")


def _tell(kind: str, text: str) -> None:
    """Say each kind of trouble once in a process, on standard error unless the program handles its log."""
    if kind not in _told:
        _told.add(kind)
        _log.warning(text)


def count(origin: Origin, cache: Cache | None) -> tuple[Origin, int, bool]:
    """Samples of a shard that no index knows.

    Returns:
        The origin, with what was learnt about it; the number; whether the shard is whole.

    Raises:
        UserError: it cannot be read.
    """
    try:
        opened = open_one(origin, cache) if is_pipe(origin.address) or not origin.remote else open_ranges(origin)
    except ShardError as error:
        raise UserError(str(error)) from error
    try:
        if is_pipe(origin.address) and isinstance(opened.source, int):
            # Should the copy be evicted and the program run again, it must give the same bytes.
            origin = Origin(origin.address, Expected(opened.table.bytes, digest_of(opened.source)), True)
        return origin, len(opened.table.keys), opened.table.complete
    finally:
        opened.close()
