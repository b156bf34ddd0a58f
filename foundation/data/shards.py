"""Opening shards and reading any sample of them by its place.

``open_shards("shards/train-*.tar")`` -> :class:`ShardSet` -> ``read(shard, place)`` -> raw sample: the bytes of each
member by extension. Bytes stay bytes: nothing is unpickled or decoded here.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from foundation.data.cache import Cache, default_folder
from foundation.data.opened import Opened, check_digests, count, open_one
from foundation.data.origins import Finder, Origin
from foundation.data.prefetch import Prefetcher
from foundation.data.shard_bytes import ShardError, read_payload
from foundation.data.tar import BLOCK, Table, check_members
from foundation.data.write import write_shards, write_splits
from foundation.errors import SampleError, UserError
from foundation.voice import plural

RawSample: TypeAlias = dict[str, Any]
"""``__key__``, ``__shard__`` (path or address), ``__id__`` (number in the data set), and by extension the bytes of each
member."""

_OPEN_SHARDS = 64  # per process: a window touches few shards, and 1,024 open files is a common limit
_OPEN_EVICTED = 8  # of those, copies that the cache has given up: they still take room on the disk
_FORGIVE_SECONDS = 300.0  # after so long a shard that storage did not give is asked for again
_COUNTED = 64 << 20  # bytes of shards whose samples are counted at the start, although an index states their number
_STALE = (
    ": the shard is damaged ('foundation data verify' looks), or its index.json is of another one: write it again with "
    "'foundation data index FOLDER'"
)
_EMPTY = 10_240  # bytes of a tar without members
_SEEN_BYTES = 4096  # of a sample, to tell shards without an index apart
_MANY = 100  # shards whose headers may be read at the start without a word
GIB = 1 << 30


class ShardSet:
    """Shards in a fixed order; a sample's number is its place in them all.

    Args:
        shards: paths, or where they come from.
        counts: samples of each.
        classes: names of the labels, if known.
        warnings: what a person should know about the shards.
        cache: for copies of remote shards; None reads them in ranges.
        prefetches: remote shards to fetch ahead of their use.
        about: free facts of the index of each folder.

    Attributes:
        about: as given.
        shards: paths and addresses, as they may be printed.
    """

    def __init__(
        self,
        shards: Sequence[str | Origin],
        counts: Sequence[int],
        classes: Sequence[str] = (),
        warnings: Sequence[str] = (),
        cache: Cache | None = None,
        prefetches: int = 0,
        about: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.about = dict(about or {})
        self._origins = tuple(shard if isinstance(shard, Origin) else Origin(shard) for shard in shards)
        self.shards = tuple(origin.name for origin in self._origins)
        self.counts: NDArray[np.int64] = np.asarray(counts, dtype=np.int64)
        self.classes, self.warnings = tuple(classes), tuple(warnings)
        self._starts: NDArray[np.int64] = np.cumsum(self.counts) - self.counts
        self._cache = cache
        self._content: str | None = None
        self.prefetches = prefetches if cache is not None and any(origin.remote for origin in self._origins) else 0
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._open: OrderedDict[int, Opened] = OrderedDict()
        self._broken: dict[int, tuple[ShardError, float]] = {}
        self._prefetcher: Prefetcher | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_open", "_broken", "_process", "_prefetcher")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def num_samples(self) -> int:
        return int(self.counts.sum())

    @property
    def fingerprint(self) -> str:
        """Changes when the shards' names or counts do, and with them the order of the stream.

        Not when other samples have taken the place of the old ones: :attr:`content` does.
        """
        text = "\n".join(f"{Path(s).name} {n}" for s, n in zip(self.shards, self.counts.tolist(), strict=True))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def content(self) -> str:
        """Changes when the shards hold other samples, whatever their names and counts.

        From the SHA-256 that the index has for each shard; where there is no index, from size, keys and places of the
        samples as the headers give them, and from the first bytes of three samples: another sample of equal length
        under an equal key, none of these three, is not noticed.
        """
        if self._content is None:
            parts = "\n".join(self._content_of(shard) for shard in range(len(self._origins)))
            kind = (
                "SHA-256 of the index"
                if all(o.expected.sha256 for o in self._origins)
                else "headers and some samples, no index"
            )
            self._content = f"{hashlib.sha256(parts.encode()).hexdigest()[:16]} ({kind})"
        return self._content

    def _content_of(self, shard: int) -> str:
        origin = self._origins[shard]
        if origin.expected.sha256:
            return origin.expected.sha256
        try:
            opened = self._opened(shard)
        except ShardError as error:
            raise UserError(str(error)) from error
        table, source = opened.table, opened.source
        digest = hashlib.sha256(f"{table.bytes}\n".encode())
        digest.update("\n".join(table.keys).encode())
        digest.update(np.ascontiguousarray(table.offsets, dtype="<i8").tobytes())
        digest.update(np.ascontiguousarray(table.sizes, dtype="<i8").tobytes())
        for index in sorted({0, len(table.offsets) // 2, len(table.offsets) - 1} if len(table.offsets) else ()):
            begin, size = int(table.offsets[index]), min(int(table.sizes[index]), _SEEN_BYTES)
            digest.update(os.pread(source, size, begin) if isinstance(source, int) else source.pread(size, begin))
        return digest.hexdigest()

    def one(self, shard: int) -> ShardSet:
        """One of the shards by itself, by its number."""
        return ShardSet([self._origins[shard]], [int(self.counts[shard])], self.classes, cache=self._cache)

    def sha256(self, shard: int) -> str:
        """SHA-256 of a shard as its index says, or what else is known of it without reading it."""
        expected = self._origins[shard].expected
        return expected.sha256 or f"{expected.size} bytes, {expected.tag}"

    def check_digests(self, most_bytes: int) -> None:
        """Compare local shards with their index; see :func:`foundation.data.opened.check_digests`."""
        check_digests(self._origins, most_bytes)

    def locate(self, identity: int) -> tuple[int, int]:
        """Shard and place of a sample, by its number in the data set."""
        if not 0 <= identity < self.num_samples:
            raise IndexError(f"sample {identity} of {self.num_samples}")
        shard = int(np.searchsorted(self._starts + self.counts, identity, side="right"))
        return shard, identity - int(self._starts[shard])

    def read(self, shard: int, index: int, only: Collection[str] | None = None) -> RawSample:
        """Read one sample.

        Args:
            shard: number of the shard.
            place: number of the sample in it.
            only: extensions of the members to read, such as those of labels; None: all.

        Raises:
            SampleError: naming shard and key, with one of ``foundation.errors.REASONS``.
        """
        path = self.shards[shard]
        try:
            opened = self._opened(shard)
            opened.check()
        except ShardError as error:
            self._give_up(shard, error)
            raise SampleError(path, f"#{index}", error.reason, error.detail) from error
        except OSError as error:  # a network file system may lose a file that is open
            raise SampleError(path, f"#{index}", "unreadable", f"cannot be read: {error.strerror}") from error
        table = opened.table
        promised = int(self.counts[shard])
        if index >= len(table.keys) or len(table.keys) > promised:
            reason = "index" if table.complete else "truncated"
            detail = f"expected {plural(promised, 'sample')}, found {len(table.keys)}"
            raise SampleError(path, f"#{index}", reason, detail + (_STALE if table.complete else ""))
        key = table.keys[index]
        sample: RawSample = {"__key__": key, "__shard__": path, "__id__": int(self._starts[shard]) + index}
        check_members(path, key, table.extensions[index])
        first, end = int(table.first[index]), int(table.first[index + 1])
        if not isinstance(opened.source, int) and only is None:
            self._hold(opened, path, key, first, end)
        for number, extension in enumerate(table.extensions[index], start=first):
            if only is not None and extension not in only:
                continue
            offset, size = int(table.offsets[number]), int(table.sizes[number])
            sample[extension] = read_payload(opened.source, path, key, extension, offset, size, table.bytes)
        if not table.complete and index == len(table.keys) - 1 and self._lacks_members(shard, table):
            raise SampleError(path, key, "truncated", "the shard has been cut off here and members are missing")
        return sample

    def table(self, shard: int) -> Table:
        """Keys, extensions and sizes of all samples of a shard.

        Raises:
            ShardError: it cannot be read.
        """
        return self._opened(shard).table

    def prefetch(self, shards: Sequence[int]) -> None:
        """Say which shards are read now and next, in order: remote ones are fetched in a thread of this process.

        Does nothing where there is nothing to fetch; cheap enough to be called for every batch.
        """
        if not self.prefetches:
            return
        self._check_process()
        if self._prefetcher is None:
            assert self._cache is not None
            self._prefetcher = Prefetcher(self._cache)
        wanted = (self._origins[shard] for shard in shards if shard not in self._open and shard not in self._broken)
        self._prefetcher.want([(origin.address, origin.expected) for origin in wanted if origin.remote])

    def close(self) -> None:
        """Close all files; they open again when needed."""
        if self._process == os.getpid():
            for opened in self._open.values():
                opened.close()
            if self._prefetcher is not None:
                self._prefetcher.end()
        self._forget()

    def __del__(self) -> None:
        if getattr(self, "_open", None) or getattr(self, "_prefetcher", None):
            self.close()

    def _lacks_members(self, shard: int, table: Table) -> bool:
        """A cut between two members leaves a last sample that looks whole; only its neighbours tell."""
        return len(table.keys) < int(self.counts[shard]) or set(table.extensions[-1]) != set(table.extensions[0])

    def _hold(self, opened: Opened, path: str, key: str, first: int, end: int) -> None:
        try:
            opened.hold(first, end)
        except ShardError as error:
            raise SampleError(path, key, error.reason, error.detail) from error

    def _check_process(self) -> None:
        if self._process != os.getpid():
            self._forget()  # the parent's files are the parent's to close

    def _opened(self, shard: int) -> Opened:
        self._check_process()
        if shard in self._open and self._open[shard].changed:
            self._open.pop(shard).close()
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        if shard in self._broken:
            error, until = self._broken[shard]
            if time.monotonic() < until:
                raise error.with_traceback(None)  # else it would grow by every sample of a bad shard
            del self._broken[shard]
        try:
            opened = open_one(self._origins[shard], self._cache)
        except ShardError as error:
            self._give_up(shard, error)
            raise
        self._open[shard] = opened
        self._close_some()
        return opened

    def _give_up(self, shard: int, error: ShardError) -> None:
        """Do not ask again for each sample of a bad shard; storage may recover, damage does not."""
        if shard in self._open:
            self._open.pop(shard).close()
        if shard not in self._broken:
            passing = error.reason in ("missing", "unreadable")
            self._broken[shard] = (error, time.monotonic() + _FORGIVE_SECONDS if passing else float("inf"))

    def _close_some(self) -> None:
        while len(self._open) > _OPEN_SHARDS:
            self._open.popitem(last=False)[1].close()
        if self._cache is not None:
            for shard in list(self._open)[:-_OPEN_EVICTED]:
                if self._open[shard].evicted:
                    self._open.pop(shard).close()


def open_shards(
    patterns: str | Path | Sequence[str | Path],
    *,
    cache: str | Path | None = None,
    cache_bytes: int = 50 * GIB,
    prefetch: int = 2,
    allow_pipes: bool = False,
) -> ShardSet:
    """Open shards for reading.

    Args:
        patterns: paths, globs (``train-*.tar``), brace patterns (``train-{000000..000012}.tar``), folders (all of
            their ``*.tar``, which must be of one split), or the same as addresses (``https://``, ``s3://``, ...).
        cache: folder for copies of remote shards; None for the user's (``FOUNDATION_CACHE``).
        cache_bytes: that it may hold; 0 reads remote shards in ranges, without copies.
        prefetch: remote shards to fetch ahead of their use.
        allow_pipes: ``pipe:COMMAND`` may be a shard.

    Returns:
        The shards, sorted by path, each once. Counts come from the ``index.json`` beside the shards, or else from
        reading the headers of each.

    Raises:
        UserError: nothing matches, a shard is missing, unreadable, or not as its index says.
    """
    finder = Finder(allow_pipes)
    found = finder.find([patterns] if isinstance(patterns, str | Path) else patterns)
    copies = Cache(Path(cache).expanduser() if cache else default_folder(), cache_bytes) if cache_bytes else None
    origins: list[Origin] = []
    counts: list[int] = []
    warnings: list[str] = []
    unknown = sum(one.samples is None and not one.origin.remote for one in found)
    if unknown > _MANY:
        warnings.append(
            f"{unknown:,} shards without index.json: all their headers are read at every start; "
            "'foundation data index FOLDER' makes the start quick"
        )
    unknown = sum(one.samples is None and one.origin.remote for one in found)
    if unknown:
        warnings.append(
            f"{plural(unknown, 'remote shard')} without index.json: headers were read over the network, and bytes "
            "cannot be checked; 'foundation data index FOLDER' writes an index where they lie"
        )
    sizes = [one.origin.expected.size or 0 for one in found if not one.origin.remote]
    small = len(sizes) <= _MANY and sum(sizes) <= _COUNTED
    for one in found:
        origin, samples = one.origin, one.samples
        if samples is not None:
            _check_count(origin, samples, small)
        if samples is None:
            origin, samples, whole = count(origin, copies)
            if not whole:
                warnings.append(f"{origin.name} has no end-of-archive mark after sample {samples}: it has been cut off")
        origins.append(origin)
        counts.append(samples)
    shards = ShardSet(origins, counts, finder.classes, warnings, copies, prefetch, finder.about)
    if shards.num_samples < 1:
        named = f"{origins[0].name}{', ...' if len(origins) > 1 else ''}"
        raise UserError(f"no samples in {plural(len(found), 'shard')} ({named}): members need names like key.jpg")
    return shards


def _check_count(origin: Origin, samples: int, small: bool) -> None:
    """Refuse an index that states another number of samples than its shard has.

    A few local shards are counted. Of others it is only seen whether the number can be; they are counted when they are
    first read, as their headers are read then: each sample that is missing is bad, and so is every sample of a shard
    that has more than the index says, which nobody would ever read.

    Raises:
        UserError: naming both numbers.
    """
    size = origin.expected.size or 0
    if (samples == 0 and size > _EMPTY) or samples * BLOCK > size:
        raise UserError(f"{origin.name} has {plural(size, 'byte')} and cannot hold {plural(samples, 'sample')}{_STALE}")
    if small and not origin.remote:
        try:
            opened = open_one(origin, None)
        except ShardError:
            return  # the shard is damaged, not its index: each of its samples is bad, and counted when it is met
        has, whole = len(opened.table.keys), opened.table.complete
        opened.close()
        if has != samples and has and whole:
            raise UserError(f"{origin.name} has {plural(has, 'sample')}, expected {samples:,}{_STALE}")


__all__ = ["RawSample", "ShardError", "ShardSet", "open_shards", "write_shards", "write_splits"]
