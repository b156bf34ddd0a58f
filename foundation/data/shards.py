"""Opening shards and reading any sample of them by its place.

``open_shards("shards/train-*.tar")`` -> :class:`ShardSet` -> ``read(shard, place)`` -> raw sample: the bytes of each
member by extension. Bytes stay bytes: nothing is unpickled or decoded here.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from foundation.data.expand import expand
from foundation.data.index import Index, ShardEntry, read_index
from foundation.data.tar import ShardError, Table, read_payload, scan
from foundation.data.write import write_shards, write_splits
from foundation.errors import SampleError, UserError

RawSample: TypeAlias = dict[str, Any]
"""``__key__``, ``__shard__`` (path), ``__id__`` (number in the data set) and the bytes of each member by extension."""

_RETRIES = (0.1, 0.5, 2.0)  # seconds to wait: shared file systems fail for a moment now and then
_OPEN_SHARDS = 64  # per process: a window touches few shards, and 1,024 open files is a common limit


class ShardSet:
    """Shards in a fixed order; a sample's number is its place in them all.

    Args:
        shards: paths.
        counts: samples of each.
        classes: names of the labels, if known.
        warnings: what a person should know about the shards.
    """

    def __init__(
        self,
        shards: Sequence[str],
        counts: Sequence[int],
        classes: Sequence[str] = (),
        warnings: Sequence[str] = (),
    ) -> None:
        self.shards = tuple(shards)
        self.counts: NDArray[np.int64] = np.asarray(counts, dtype=np.int64)
        self.classes, self.warnings = tuple(classes), tuple(warnings)
        self._starts: NDArray[np.int64] = np.cumsum(self.counts) - self.counts
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._open: OrderedDict[int, tuple[int, Table]] = OrderedDict()
        self._broken: dict[int, ShardError] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_open", "_broken", "_process")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def num_samples(self) -> int:
        return int(self.counts.sum())

    @property
    def fingerprint(self) -> str:
        """Changes when the shards' names or counts do, and with them the order of the stream."""
        text = "\n".join(f"{Path(s).name} {n}" for s, n in zip(self.shards, self.counts.tolist(), strict=True))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def locate(self, identity: int) -> tuple[int, int]:
        """Shard and place of a sample, by its number in the data set."""
        if not 0 <= identity < self.num_samples:
            raise IndexError(f"sample {identity} of {self.num_samples}")
        shard = int(np.searchsorted(self._starts + self.counts, identity, side="right"))
        return shard, identity - int(self._starts[shard])

    def read(self, shard: int, place: int) -> RawSample:
        """Read one sample.

        Args:
            shard: number of the shard.
            place: number of the sample in it.

        Raises:
            SampleError: naming shard and key, with one of ``foundation.errors.REASONS``.
        """
        path = self.shards[shard]
        try:
            descriptor, table = self._table(shard)
        except ShardError as error:
            raise SampleError(path, f"#{place}", error.reason, error.detail) from error
        if place >= len(table.keys):
            reason = "index" if table.complete else "truncated"
            detail = f"expected {int(self.counts[shard])} samples, found {len(table.keys)}"
            raise SampleError(path, f"#{place}", reason, detail)
        key = table.keys[place]
        sample: RawSample = {"__key__": key, "__shard__": path, "__id__": int(self._starts[shard]) + place}
        first = int(table.first[place])
        for number, extension in enumerate(table.extensions[place], start=first):
            offset, size = int(table.offsets[number]), int(table.sizes[number])
            sample[extension] = read_payload(descriptor, path, key, extension, offset, size, table.bytes)
        if not table.complete and place == len(table.keys) - 1 and self._lacks_members(shard, table):
            raise SampleError(path, key, "truncated", "the shard has been cut off here and members are missing")
        return sample

    def table(self, shard: int) -> Table:
        """Keys, extensions and sizes of all samples of a shard.

        Raises:
            ShardError: it cannot be read.
        """
        return self._table(shard)[1]

    def close(self) -> None:
        """Close all files; they open again when needed."""
        if self._process == os.getpid():
            for descriptor, _ in self._open.values():
                os.close(descriptor)
        self._forget()

    def __del__(self) -> None:
        if getattr(self, "_open", None):
            self.close()

    def _lacks_members(self, shard: int, table: Table) -> bool:
        """A cut between two members leaves a last sample that looks whole; only its neighbours tell."""
        return len(table.keys) < int(self.counts[shard]) or set(table.extensions[-1]) != set(table.extensions[0])

    def _table(self, shard: int) -> tuple[int, Table]:
        if self._process != os.getpid():
            self._forget()  # the parent's files are the parent's to close
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        if shard in self._broken:
            raise self._broken[shard]
        try:
            entry = _open_and_scan(self.shards[shard])
        except ShardError as error:
            self._broken[shard] = error
            raise
        self._open[shard] = entry
        if len(self._open) > _OPEN_SHARDS:
            os.close(self._open.popitem(last=False)[1][0])
        return entry


def _open_and_scan(path: str) -> tuple[int, Table]:
    for wait in (*_RETRIES, None):
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            try:
                return descriptor, scan(descriptor, path)
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            if wait is None or error.errno in (errno.EACCES, errno.EISDIR):
                reason = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
                raise ShardError(path, reason, f"cannot be opened: {error.strerror}") from error
            time.sleep(wait)
    raise AssertionError("unreachable")


def open_shards(patterns: str | Path | Sequence[str | Path]) -> ShardSet:
    """Open shards for reading.

    Args:
        patterns: paths, globs (``train-*.tar``), brace patterns (``train-{000000..000012}.tar``) or folders (all of
            their ``*.tar``, which must be of one split).

    Returns:
        The shards, sorted by path, each once. Counts come from the ``index.json`` beside the shards, or else from
        reading the headers of each.

    Raises:
        UserError: nothing matches, a shard is missing, remote, unreadable, or not as its index says.
    """
    paths = expand(patterns)
    indices: dict[Path, Index | None] = {}
    entries: dict[Path, dict[str, ShardEntry]] = {}
    counts: list[int] = []
    warnings: list[str] = []
    classes: tuple[str, ...] = ()
    for path in paths:
        folder = path.parent
        if folder not in indices:
            indices[folder] = index = read_index(folder)
            entries[folder] = index.entries() if index else {}
            classes = classes or (index.classes if index else ())
        entry = entries[folder].get(path.name)
        if entry is None:
            counts.append(_count(path, warnings))
            continue
        size = path.stat().st_size
        if size != entry.bytes:
            raise UserError(
                f"{path} has {size} bytes, {folder / 'index.json'} says {entry.bytes}: the shard was cut off or "
                f"written again. Copy it anew, or write the index again with 'foundation data index {folder}'"
            )
        counts.append(entry.samples)
    shards = ShardSet([str(path) for path in paths], counts, classes, warnings)
    if shards.num_samples < 1:
        raise UserError(f"no samples in {len(paths)} shards ({paths[0]}, ...): members need names like key.jpg")
    return shards


def _count(path: Path, warnings: list[str]) -> int:
    try:
        descriptor, table = _open_and_scan(str(path))
    except ShardError as error:
        raise UserError(str(error)) from error
    os.close(descriptor)
    if not table.complete:
        warnings.append(f"{path} has no end-of-archive mark after sample {len(table.keys)}: it has been cut off")
    return len(table.keys)


__all__ = ["RawSample", "ShardError", "ShardSet", "open_shards", "write_shards", "write_splits"]
