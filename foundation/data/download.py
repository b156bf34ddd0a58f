"""Fetching a whole shard into a file: gone on with after a break, and checked against what was promised."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from foundation.data.addresses import RemoteError, Storage, shown
from foundation.data.remote import rest
from foundation.data.storages import storage_of

_STEP = 64 << 20  # bytes between two looks at the room, when nobody said how large a shard is
_PROGRESS = 1 << 20  # so many new bytes make up for a failed attempt
_WRONG = 2  # times that a whole download may have the wrong digest


@dataclass(frozen=True)
class Expected:
    """What is known about a shard before it is fetched.

    Attributes:
        size: in bytes, None when unknown.
        sha256: hexadecimal, empty when unknown.
        tag: of the server's version, empty when unknown.
    """

    size: int | None = None
    sha256: str = ""
    tag: str = ""


class Download:
    """One shard on its way into a file, with further attempts from where the last one broke.

    Args:
        address: of the shard.
        part: file that is there; the bytes in it are gone on from.
        expected: what the whole must be.
        make_room: called now and then while nobody knows how large the shard will be.
        storage: that the address belongs to; None: found by the address.
        tell: gets the bytes that are there, after each piece.
        promise: what says how the bytes must be, for messages.
    """

    def __init__(
        self,
        address: str,
        part: Path,
        expected: Expected,
        make_room: Callable[[], None],
        storage: Storage | None = None,
        tell: Callable[[int], object] | None = None,
        promise: str = "its index",
    ) -> None:
        self.address, self.part, self.expected, self.make_room = address, part, expected, make_room
        self.storage = storage_of(address) if storage is None else storage
        self.tell, self.promise = tell, promise

    def run(self) -> str:
        """Fetch all of it, check and sync it.

        Returns:
            Its SHA-256, hexadecimal.

        Raises:
            RemoteError: after all attempts; reason ``corrupt`` where the bytes are not those that were promised.
            OSError: the file cannot be written.
        """
        for wrong in range(_WRONG):
            with self.part.open("r+b") as file:
                digest = self._fill(file.fileno())
                os.fsync(file.fileno())
            if not self.expected.sha256 or digest == self.expected.sha256:
                return digest
            self.part.open("wb").close()
            if wrong + 1 == _WRONG:
                raise RemoteError(
                    shown(self.address), "corrupt",
                    f"its SHA-256 is {digest[:16]}..., {self.promise} says {self.expected.sha256[:16]}... ({_WRONG} "
                    "downloads): it was replaced, or the server sends other bytes", False,
                )  # fmt: skip
        raise AssertionError("unreachable")

    def _fill(self, descriptor: int) -> str:
        digest = hashlib.sha256()
        done = self._take_over(descriptor, digest.update)
        attempt, mark = 0, done
        while True:
            try:
                for piece in self._pieces(done):
                    _write(descriptor, piece, done)
                    digest.update(piece)
                    done += len(piece)
                    if self.tell is not None:
                        self.tell(done)
                    if done // _STEP != (done - len(piece)) // _STEP and self.expected.size is None:
                        self.make_room()
                if self.expected.size is not None and done < self.expected.size:
                    detail = f"{done:,} of {self.expected.size:,} bytes came, then the answer ended"
                    raise RemoteError(shown(self.address), "truncated", detail)
                return digest.hexdigest()
            except RemoteError as error:
                if done - mark >= _PROGRESS:
                    attempt, mark = 0, done
                rest(error, attempt)
                attempt += 1
                if self.expected.size is None:  # nobody can tell whether the rest belongs to the same bytes
                    done, digest = 0, hashlib.sha256()
                    os.ftruncate(descriptor, 0)

    def _take_over(self, descriptor: int, update: Callable[[bytes], None]) -> int:
        """Bytes that are there already, told to the digest."""
        done = 0
        size = os.fstat(descriptor).st_size
        if self.expected.size is not None and size > self.expected.size:
            os.ftruncate(descriptor, 0)
            return 0
        while piece := os.pread(descriptor, 1 << 20, done):
            update(piece)
            done += len(piece)
        return done

    def _pieces(self, done: int) -> Iterator[bytes]:
        size = self.expected.size
        if size is not None and done == size:
            return
        for piece in self.storage.stream(self.address, done, self.expected.tag):
            done += len(piece)
            if size is not None and done > size:
                detail = f"more bytes than the {size:,} expected: it was replaced, or the server lies"
                raise RemoteError(shown(self.address), "corrupt", detail)
            yield piece


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
