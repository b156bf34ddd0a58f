"""Writing shards: plain tar files of samples, all in place or none.

The shards are written by webdataset's own writer with fixed times and owners, so equal samples give equal bytes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from foundation.data.index import NAME as INDEX
from foundation.data.index import Index, ShardEntry, merge, read_index, write_index
from foundation.errors import UserError
from foundation.files import replace_json, sync_folder

SAMPLES_PER_SHARD = 10_000
MAX_BYTES = 1 << 30

_MOVING = ".moving.json"
"""Names of the shards that are being moved into a folder; there only while that lasts, or where it was cut short."""

_SHARD = re.compile(r"\w+-\d{6}\.tar")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_YOUNG = 60.0  # seconds for which an empty folder may belong to a writer that is about to lock it


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
    out = _folder(Path(out))
    if samples_per_shard < 1 or max_bytes < 1:
        raise UserError(f"a shard must hold at least 1 sample and 1 byte, got {samples_per_shard} and {max_bytes}")
    place = _beside(out)
    try:
        place.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out)
        free = shutil.disk_usage(place).free
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}: give another folder") from error
    old = read_index(out)
    for split in splits:
        if not split or not split.replace("_", "").isalnum():
            raise UserError(f"split {split!r} must be letters, digits and underscores")
        present = sorted(out.glob(f"{split}-*.tar"))
        if (present or (old and split in old.splits)) and not overwrite:
            raise UserError(
                f"{out} already holds the split {split!r} ({len(present)} shards): add --overwrite to replace it, "
                "or give another folder"
            )
    _check_classes(out, old, splits, classes)
    if expected_bytes > free:
        raise UserError(
            f"{out}: {_size(expected_bytes)} are needed, {_size(free)} are free in {place}: make room, or give a "
            "folder on another disk"
        )
    with _temporary_folder(out) as temporary:
        try:
            written = {
                split: _write_split(samples, temporary, split, samples_per_shard, max_bytes)
                for split, samples in splits.items()
            }
            index = merge(old, written, classes, about() if callable(about) else about)
            _put_in_place(temporary, out, index, written)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            so_far = sum(path.stat().st_size for path in temporary.glob("*"))
            needed = f"{_size(expected_bytes)} are needed" if expected_bytes else "that is not enough"
            raise UserError(
                f"{out}: {error.strerror} after {_size(so_far)} were written: {needed}, {_size(free)} were free in "
                f"{place}; make room and start the same command again, nothing half-written stays"
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


def _folder(out: Path) -> Path:
    """Where the shards are to lie, links resolved: a link that leads nowhere is mostly a disk that is not there."""
    if out.is_symlink() and not out.exists():
        raise UserError(
            f"{out} is a link to {os.readlink(out)}, which is not there: mount the disk, or give another name"
        )
    out = out.resolve()
    for path in (out, *out.parents):
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file; give a folder for the shards")
    return out


def _beside(out: Path) -> Path:
    """Where shards are written before they are put in place: on the disk where they will lie."""
    return out if os.path.ismount(out) else out.parent


@contextlib.contextmanager
def _temporary_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out``, locked as long as its writer lives, gone afterwards."""
    try:
        path = Path(tempfile.mkdtemp(prefix=f".{out.name}.building-", dir=_beside(out)))
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}: give another folder") from error
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield path
    finally:
        os.close(descriptor)
        shutil.rmtree(path, ignore_errors=True)


def remove_leftovers(out: Path) -> list[Path]:
    """Remove what writers that were killed left beside a folder of shards.

    Returns:
        What was removed.

    Raises:
        UserError: a writer that is alive is writing there.
    """
    removed = []
    for path in sorted(_beside(out).glob(f".{glob.escape(out.name)}.building-*")):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if any(path.iterdir()) or time.time() - path.stat().st_mtime > _YOUNG:
                shutil.rmtree(path)
                removed.append(path)
        except BlockingIOError:
            raise UserError(f"another process is writing {out} (into {path}): wait for it, or end it") from None
        except OSError:
            continue  # no locks on this file system: whether its writer is alive cannot be known
        finally:
            os.close(descriptor)
    return removed + _undo_moving(out)


def _undo_moving(out: Path) -> list[Path]:
    """Remove shards that were moved into a folder whose index never came to know them."""
    try:
        names = json.loads((out / _MOVING).read_text(encoding="utf-8"))["shards"]
    except (OSError, ValueError, TypeError, KeyError):
        return []
    index = read_index(out)
    known = index.entries() if index else {}
    removed = []
    for name in names if isinstance(names, list) else ():
        if isinstance(name, str) and _SHARD.fullmatch(name) and name not in known and (out / name).is_file():
            (out / name).unlink()
            removed.append(out / name)
    (out / _MOVING).unlink()
    return removed


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


def _put_in_place(temporary: Path, out: Path, index: Index, written: Mapping[str, tuple[ShardEntry, ...]]) -> None:
    umask = os.umask(0)
    os.umask(umask)
    if not out.exists() or not (os.path.ismount(out) or any(out.iterdir())):
        write_index(temporary, index)
        temporary.chmod(0o777 & ~umask)
        sync_folder(temporary)
        os.replace(temporary, out)
        sync_folder(out.parent)
        return
    coming = [entry.file for entries in written.values() for entry in entries if not (out / entry.file).exists()]
    replace_json(out / _MOVING, {"shards": coming})
    for split, entries in written.items():
        keep = {entry.file for entry in entries}
        for entry in entries:
            os.replace(temporary / entry.file, out / entry.file)
        for stale in out.glob(f"{split}-*.tar"):
            if stale.name not in keep:
                stale.unlink()
    sync_folder(out)
    write_index(out, index)
    (out / _MOVING).unlink()


__all__ = ["INDEX", "MAX_BYTES", "SAMPLES_PER_SHARD", "write_shards", "write_splits"]
