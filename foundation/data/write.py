"""Writing shards: plain tar files of samples, all in place or none.

The shards are written by webdataset's own writer with fixed times and owners, so equal samples give equal bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from foundation.data.index import NAME as INDEX
from foundation.data.index import Index, ShardEntry, merge, read_index
from foundation.data.put_in_place import beside, folder_of, put_in_place, remove_leftovers, temporary_folder
from foundation.errors import UserError
from foundation.voice import plural

SAMPLES_PER_SHARD = 10_000
MAX_BYTES = 1 << 30

_FULL = (errno.ENOSPC, errno.EDQUOT)


class _HashingFile:
    """Passes bytes on to a file and knows their number and digest."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.bytes, self._digest = file, 0, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.bytes += len(data)
        self._digest.update(data)
        return self._file.write(data)

    def sha256(self) -> str:
        return self._digest.hexdigest()


class _SplitWriter:
    """Cuts a stream of samples into shards."""

    def __init__(self, folder: Path, split: str, samples_per_shard: int, max_bytes: int) -> None:
        self.folder, self.split = folder, split
        self.samples_per_shard, self.max_bytes = samples_per_shard, max_bytes
        self.entries: list[ShardEntry] = []
        self._file: BinaryIO | None = None
        self._keys: set[str] = set()

    def add(self, sample: Mapping[str, Any]) -> None:
        key = sample.get("__key__")
        _check(key, sample)
        size = sum(len(value) + 1024 for name, value in sample.items() if not name.startswith("_"))
        if self._file is None:
            self._begin()
        elif self._samples >= self.samples_per_shard or self._sink.bytes + size > self.max_bytes:
            self.close()
            self._begin()
        if key in self._keys:
            raise UserError(f"two samples have the key {key!r}; keys must be unique")
        self._keys.add(key)  # type: ignore[arg-type]
        self._tar.write(dict(sample))
        self._samples += 1

    def _begin(self) -> None:
        from webdataset import TarWriter

        path = self.folder / f"{self.split}-{len(self.entries):06d}.tar"
        self._file = path.open("xb")
        self._sink = _HashingFile(self._file)
        self._samples = 0
        self._keys.clear()
        self._tar = TarWriter(
            self._sink, user="", group="", mode=0o644, mtime=0, encoder=False, format="PAX_FORMAT", compress=False
        )

    def close(self) -> None:
        if self._file is None:
            return
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        name = Path(self._file.name).name
        self._file = None
        self.entries.append(ShardEntry(name, self._samples, self._sink.bytes, self._sink.sha256()))

    def abandon(self) -> None:
        """Close what is open after an error; the file itself goes with its folder."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk is full for the end of the archive too
                self._tar.close()
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


def _check(key: object, sample: Mapping[str, Any]) -> None:
    if not isinstance(key, str) or not key or "." in key or key.startswith("/") or "\0" in key or key.endswith("/"):
        raise UserError(
            f"a sample has the key {key!r}: keys are text without dots that does not begin with '/' "
            "(what follows the first dot is the extension)"
        )
    members = [name for name in sample if not name.startswith("_")]
    if not members:
        raise UserError(f"sample {key!r} has no members")
    for name in members:
        if not isinstance(sample[name], bytes):
            raise UserError(f"sample {key!r}: member {name!r} must be bytes, got {type(sample[name]).__name__}")


def write_splits(
    splits: Mapping[str, Iterable[Mapping[str, Any]]],
    out: Path,
    *,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    max_bytes: int = MAX_BYTES,
    overwrite: bool = False,
    classes: Sequence[str] = (),
    about: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
    expected_bytes: int = 0,
) -> Index:
    """Write several splits into one folder.

    Everything is written into a temporary folder beside ``out`` first. A new ``out`` then appears by one rename. Into
    a folder that exists, the shards are moved one by one and the index last: a reader between the two finds a size
    that disagrees with the index and says so. What a writer that was killed left beside ``out`` is removed.

    Args:
        splits: samples by split; a sample has ``__key__`` (unique, no dots) and bytes by extension.
        out: folder of the shards.
        samples_per_shard: at most.
        max_bytes: size of a shard, at most (one sample may exceed it).
        overwrite: replace splits that exist.
        classes: names of the labels.
        about: free facts for the index, or a function that is asked for them when all samples are written.
        expected_bytes: of all samples, where that is known.

    Returns:
        The index as written.

    Raises:
        UserError: a split exists, a sample is malformed, a limit is impossible, the classes are not those of splits
            that stay, another process is writing there, or the disk has no room.
    """
    out = folder_of(Path(out))
    if samples_per_shard < 1 or max_bytes < 1:
        raise UserError(f"a shard must hold at least 1 sample and 1 byte, got {samples_per_shard} and {max_bytes}")
    folder = beside(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}: give another folder") from error
    old = read_index(out)
    for split in splits:
        if not split or not split.replace("_", "").isalnum():
            raise UserError(f"split {split!r} must be letters, digits and underscores")
        present = sorted(out.glob(f"{split}-*.tar"))
        if (present or (old and split in old.splits)) and not overwrite:
            raise UserError(
                f"{out} already holds the split {split!r} ({plural(len(present), 'shard')}): add --overwrite to "
                "replace it, or give another folder"
            )
    _check_classes(out, old, splits, classes)
    if expected_bytes > free:
        raise UserError(
            f"{out}: {_size(expected_bytes)} are needed, {_size(free)} are free in {folder}: make room, or give a "
            "folder on another disk"
        )
    with temporary_folder(out) as temporary:
        try:
            written = {
                split: _write_split(samples, temporary, split, samples_per_shard, max_bytes)
                for split, samples in splits.items()
            }
            index = merge(old, written, classes, about() if callable(about) else about)
            put_in_place(temporary, out, index, written)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            so_far = sum(path.stat().st_size for path in temporary.glob("*"))
            needed = f"{_size(expected_bytes)} are needed" if expected_bytes else "that is not enough"
            raise UserError(
                f"{out}: {error.strerror} after {_size(so_far)} were written: {needed}, {_size(free)} were free in "
                f"{folder}; make room and start the same command again, nothing half-written stays"
            ) from error
    return index


def _check_classes(out: Path, old: Index | None, splits: Iterable[str], classes: Sequence[str]) -> None:
    """Splits of one folder number their classes alike, or a probe would take one class for another."""
    kept = sorted(set(old.splits) - set(splits)) if old else []
    if old and kept and old.classes and classes and tuple(classes) != old.classes:
        raise UserError(
            f"{out} holds {', '.join(kept)} with the classes {_few(old.classes)}; these have {_few(classes)}, and "
            "would be numbered otherwise: build all splits at once (folders train/ and test/, or a column 'split'), or "
            "give another folder"
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f", ... ({len(names)})" if len(names) > 4 else "")


def _size(number: int) -> str:
    return f"{number / 1e9:,.2f} GB" if number >= 1e8 else f"{number / 1e6:,.2f} MB"


def write_shards(
    samples: Iterable[Mapping[str, Any]],
    out: Path,
    split: str,
    *,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    max_bytes: int = MAX_BYTES,
    overwrite: bool = False,
    classes: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
) -> tuple[ShardEntry, ...]:
    """Write one split; arguments and errors as for :func:`write_splits`."""
    index = write_splits(
        {split: samples},
        out,
        samples_per_shard=samples_per_shard,
        max_bytes=max_bytes,
        overwrite=overwrite,
        classes=classes,
        about=about,
    )
    return index.splits[split]


def _write_split(
    samples: Iterable[Mapping[str, Any]], folder: Path, split: str, samples_per_shard: int, max_bytes: int
) -> tuple[ShardEntry, ...]:
    writer = _SplitWriter(folder, split, samples_per_shard, max_bytes)
    try:
        for sample in samples:
            writer.add(sample)
        writer.close()
    finally:
        writer.abandon()
    if not writer.entries:
        raise UserError(f"the split {split!r} has no samples")
    return tuple(writer.entries)


def write_shard(samples: Iterable[Mapping[str, Any]], path: Path) -> ShardEntry:
    """Write one shard, whole or not at all.

    Args:
        samples: as for :func:`write_splits`.
        path: of the shard; its folder is there.

    Raises:
        UserError: there are no samples, or one is malformed.
        OSError: the disk is full.
    """
    folder = Path(tempfile.mkdtemp(prefix=".writing-", dir=path.parent))
    try:
        (entry,) = _write_split(samples, folder, "one", sys.maxsize, sys.maxsize)
        os.replace(folder / entry.file, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return dataclasses.replace(entry, file=path.name)


__all__ = ["INDEX", "MAX_BYTES", "SAMPLES_PER_SHARD", "write_shard", "write_shards", "write_splits"]
