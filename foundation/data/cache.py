"""Copies of remote shards on a disk of the node, shared by all its processes and bounded in size.

::

    CACHE/<key>.tar                       a whole shard; its time of access is that of its last use
    CACHE/<key>.<bytes>.<owner>.part      one that is being fetched, or was when its process died
    CACHE/<key>.failed                    why the last attempt gave up, for those who waited for it
    CACHE/sums/<key>                      SHA-256 of the copy, and which file had it when somebody last looked
    CACHE/locks/<xxx>                     a lock for each of 4,096 groups of keys, and ``room`` for who makes room

A key is the digest of address, size and SHA-256 (or the server's version): another content is another file. Only a
finished file has its final name, given by a rename; everyone writes to a file of their own. So the lock saves
downloads, but the bytes do not depend on it: on file systems where ``flock`` does nothing they are good as well.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from foundation import schema
from foundation.data.addresses import RemoteError, is_full, is_pipe, shown
from foundation.data.download import Download, Expected
from foundation.data.part_owner import FREE, alive, owner
from foundation.data.sums import Facts, Sums
from foundation.files import held
from foundation.paths import user_cache

FOLDER_VARIABLE = "FOUNDATION_CACHE"
_DAY = 86400.0
_PART = re.compile(r"([0-9a-f]{32})\.(\d+)\.([^.]+)\.part")
_log = logging.getLogger("foundation.data")


class CacheFullError(Exception):
    """There is no room for a shard in the cache; it can still be read in ranges.

    Args:
        kind: a short word, to say each kind once.
        detail: for a person.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class _LockError(Exception):
    """The folder's locks cannot be opened."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _Failure(TypedDict):
    """What an attempt that gave up leaves for those who waited for it."""

    address: str
    reason: str
    detail: str


@dataclass
class _File:
    path: Path
    size: int
    used: float
    live: bool


def default_folder() -> Path:
    """Where the copies go: ``FOUNDATION_CACHE``, else ``foundation/shards`` in the user's cache folder."""
    if given := os.environ.get(FOLDER_VARIABLE):
        return Path(given).expanduser()
    return user_cache() / "shards"


class Cache:
    """A folder of copies.

    Args:
        folder: made when needed.
        limit: bytes that it may hold; never more, except for files that are open and no longer have a name.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._sums = Sums(folder / "sums")

    def key(self, address: str, expected: Expected) -> str:
        """Name of a shard's copy."""
        if is_pipe(address):
            return hashlib.sha256(address.encode()).hexdigest()[:32]
        version = expected.sha256 or expected.tag
        return hashlib.sha256(f"{address}\n{expected.size}\n{version}".encode()).hexdigest()[:32]

    def find(self, address: str, expected: Expected) -> int | None:
        """Descriptor of the copy, or None when there is none; a damaged one is named and removed.

        Without the lock of its key, two processes may hash the same copy; :meth:`open` sees to that.
        """
        return self._checked(address, self.key(address, expected), expected)

    def open(self, address: str, expected: Expected, wait: bool = True) -> int | None:
        """Descriptor of the copy, which is fetched when it is not there or damaged.

        Args:
            address: of the shard.
            expected: what is known about it; the fetched bytes must agree.
            wait: for another process that is fetching it; else None is returned then.

        Raises:
            CacheFullError: no room, or the folder cannot be written.
            RemoteError: it cannot be had, after all attempts.
        """
        key = self.key(address, expected)
        descriptor = self._checked(address, key, expected, hash_it=False)
        if descriptor is not None:
            return descriptor
        began = time.time()
        try:
            with self._lock(key[:3], wait) as locked:
                if not locked:
                    return None
                descriptor = self._checked(address, key, expected)
                if descriptor is None:
                    self._raise_if_too_large(address, expected)
                    self._raise_if_failed(key, began)
                    self._fetch(address, key, expected)
                    descriptor = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC)
                return descriptor
        except _LockError as error:  # a cache that can only be read is of use too
            descriptor = self._checked(address, key, expected)
            if descriptor is None:
                self._raise_if_too_large(address, expected)
                raise CacheFullError("unusable", self._unusable(error.cause)) from error
            return descriptor

    def _raise_if_too_large(self, address: str, expected: Expected) -> None:
        if expected.size is not None and expected.size > self.limit:
            raise CacheFullError(
                "large",
                f"{shown(address)} ({expected.size:,} bytes) is larger than the cache ({self.limit:,} bytes; "
                "data.cache_gib): it is read in ranges, which is slower",
            )

    def _checked(self, address: str, key: str, expected: Expected, hash_it: bool = True) -> int | None:
        """Descriptor of a copy that is what was fetched, None when there is none.

        Args:
            address: for messages.
            key: of the copy.
            expected: what is known about the shard.
            hash_it: hash a copy that nobody has looked at lately, and remove a damaged one; else such copies count as
                not there and stay.
        """
        path = self._path(key)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if hash_it:
                self._say_damaged(address, path, f"it cannot be read ({error.strerror})", "not used")
            return None
        try:
            facts = Facts.of(os.fstat(descriptor))
            usable, wrong = False, "it is no file"
            if facts is not None:
                usable, wrong = self._sums.trouble(key, facts, descriptor, expected, hash_it)
        except BaseException:
            os.close(descriptor)
            raise
        if usable:
            touch(descriptor)
            return descriptor
        os.close(descriptor)
        if wrong and hash_it:
            self._discard(address, key, facts, wrong)
        return None

    def _discard(self, address: str, key: str, facts: Facts | None, wrong: str) -> None:
        """Name and remove a copy, unless another one has taken its name in the meantime."""
        path = self._path(key)
        try:
            if facts is None or os.stat(path).st_ino == facts.inode:
                path.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            self._say_damaged(address, path, wrong, f"it cannot be removed ({error.strerror}) and is not used")
            return
        self._sums.forget(key)
        self._say_damaged(address, path, wrong, "removed; it is fetched again")

    def _say_damaged(self, address: str, path: Path, wrong: str, done: str) -> None:
        _log.warning(f"damaged copy {path} of {shown(address)}: {wrong}: {done}")

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.tar"

    @contextmanager
    def _lock(self, name: str, wait: bool = True) -> Iterator[bool]:
        """Hold a lock of the folder; gives False when it is taken and ``wait`` is off."""
        try:
            (self.folder / "locks").mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / "locks" / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise _LockError(error) from error
        try:
            with held(descriptor, wait) as locked:
                yield locked
        finally:
            os.close(descriptor)

    def _raise_if_failed(self, key: str, began: float) -> None:
        """Who waited for an attempt that gave up does not go through all attempts again."""
        note = self.folder / f"{key}.failed"
        try:
            if note.stat().st_mtime >= began:
                facts = schema.read_json(_Failure, note)
                raise RemoteError(facts["address"], facts["reason"], facts["detail"], False)
        except (OSError, schema.FormError):
            return

    def _fetch(self, address: str, key: str, expected: Expected) -> None:
        part: Path | None = None
        keep = False
        try:
            self._make_room(expected.size or 0, address)
            part = self._begin(key, expected)
            self._make_room(0, address)  # now that others can see what this one needs
            digest = Download(address, part, expected, lambda: self._make_room(0, address)).run()
            facts = Facts.of(part.stat())
            os.replace(part, self._path(key))
            if facts is not None:
                self._sums.note(key, digest, facts)
            self._tidy(key)
        except RemoteError as error:
            keep = error.reason != "corrupt" and bool(expected.sha256)
            self._note(key, error)
            raise
        except _LockError as error:
            raise CacheFullError("unusable", self._unusable(error.cause)) from error
        except OSError as error:
            if is_full(error):
                text = self._no_room(expected.size or 0, error.strerror or "full")
                raise CacheFullError("full", text) from error
            raise CacheFullError("unusable", self._unusable(error)) from error
        finally:
            if part is not None:
                self._release(key, part, keep)

    def _tidy(self, key: str) -> None:
        """Remove what was left of a shard that is there now."""
        (self.folder / f"{key}.failed").unlink(missing_ok=True)
        for left in self.folder.glob(f"{key}.*.part"):
            match = _PART.fullmatch(left.name)
            if match and not alive(match[3], left):
                left.unlink(missing_ok=True)

    def _release(self, key: str, part: Path, keep: bool) -> None:
        """Leave a part for the next attempt, of whichever process, or remove it."""
        try:
            if keep and part.stat().st_size:
                os.replace(part, self.folder / f"{key}.0.{FREE}.part")
            else:
                part.unlink(missing_ok=True)
        except OSError:
            pass

    def _begin(self, key: str, expected: Expected) -> Path:
        """A file of this thread's own, with what a dead process left of the same shard."""
        mine = self.folder / f"{key}.{expected.size or 0}.{owner()}.part"
        # Without a digest nobody knows whether what is there was damaged, or belongs to the same content.
        if expected.sha256:
            for left in self.folder.glob(f"{key}.*.part"):
                match = _PART.fullmatch(left.name)
                if match and not alive(match[3], left):
                    try:
                        os.rename(left, mine)
                        return mine
                    except OSError:
                        continue
        mine.open("wb").close()
        return mine

    def _note(self, key: str, error: RemoteError) -> None:
        facts = {"address": error.address, "reason": error.reason, "detail": error.detail}
        note = self.folder / f"{key}.failed"
        mine = self.folder / f"{key}.{owner()}.note"
        try:
            mine.write_text(json.dumps(facts), encoding="utf-8")
            os.replace(mine, note)
        except OSError:
            mine.unlink(missing_ok=True)

    def _files(self) -> list[_File]:
        files = []
        for entry in os.scandir(self.folder):
            try:
                facts = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            match = _PART.fullmatch(entry.name)
            path = self.folder / entry.name
            if match:
                live = alive(match[3], path)
                # The room of a live download is spoken for; what a dead process left goes first.
                size = max(int(match[2]), facts.st_size) if live else facts.st_size
                files.append(_File(path, size, facts.st_mtime if live else 0.0, live))
            elif entry.name.endswith(".tar") and stat.S_ISREG(facts.st_mode):
                files.append(_File(path, facts.st_size, facts.st_atime, False))
            elif entry.name.endswith((".failed", ".note")) and time.time() - facts.st_mtime > _DAY:
                path.unlink(missing_ok=True)
        return sorted(files, key=lambda file: file.used)

    def _make_room(self, need: int, address: str) -> None:
        """Remove the copies not used for longest until so many more bytes fit."""
        with self._lock("room"):
            files = self._files()
            used = sum(file.size for file in files)
            for file in files:
                if used + need <= self.limit and self._free() >= need:
                    break
                if not file.live:
                    file.path.unlink(missing_ok=True)
                    self._sums.forget(file.path.stem)
                    used -= file.size
            if used + need > self.limit:
                raise CacheFullError(
                    "small",
                    f"the cache {self.folder} ({self.limit:,} bytes) is taken by shards that are being fetched: "
                    f"{shown(address)} is read in ranges; raise data.cache_gib",
                )
            if self._free() < need:
                raise CacheFullError("full", self._no_room(need, "the disk is full"))

    def _free(self) -> int:
        return shutil.disk_usage(self.folder).free

    def _unusable(self, error: OSError) -> str:
        return (
            f"the cache {self.folder} cannot be used ({error.strerror}): shards are read in ranges, which is slower. "
            f"Set data.cache or {FOLDER_VARIABLE} to a folder that can be written"
        )

    def _no_room(self, need: int, why: str) -> str:
        return (
            f"no room in the cache {self.folder} ({why}): {need:,} bytes needed, {self._free():,} free. Shards are "
            f"read in ranges, which is slower; free some space, or set data.cache or {FOLDER_VARIABLE} to another disk"
        )


def touch(descriptor: int) -> None:
    """Note that a copy is in use; its time of change stays that of its content."""
    with suppress(OSError):  # a cache that can only be read is of use too
        os.utime(descriptor, ns=(time.time_ns(), os.fstat(descriptor).st_mtime_ns))
