"""Where shards are written before they are all there, how they get into place, and what writers that died left."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypedDict

from foundation import schema
from foundation.data.index import Index, ShardEntry, read_index, write_index
from foundation.errors import UserError
from foundation.files import replace_json, sync_folder

_MOVING = ".moving.json"
"""Names of the shards that are being moved into a folder; there only while that lasts, or where it was cut short."""

_SHARD = re.compile(r"\w+-\d{6}\.tar")


class _Moving(TypedDict):
    """Which shards are on their way into the folder."""

    shards: list[str]


_YOUNG = 60.0  # seconds for which an empty folder may belong to a writer that is about to lock it


def folder_of(out: Path) -> Path:
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


def beside(out: Path) -> Path:
    """Where shards are written before they are put in place: on the disk where they will lie."""
    return out if os.path.ismount(out) else out.parent


@contextlib.contextmanager
def temporary_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out``, locked as long as its writer lives, gone afterwards."""
    try:
        path = Path(tempfile.mkdtemp(prefix=f".{out.name}.building-", dir=beside(out)))
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
    for path in sorted(beside(out).glob(f".{glob.escape(out.name)}.building-*")):
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
        names = schema.read_json(_Moving, out / _MOVING)["shards"]
    except (FileNotFoundError, schema.FormError):
        return []
    index = read_index(out)
    known = index.entries() if index else {}
    removed = []
    for name in names:
        if _SHARD.fullmatch(name) and name not in known and (out / name).is_file():
            (out / name).unlink()
            removed.append(out / name)
    (out / _MOVING).unlink()
    return removed


def put_in_place(temporary: Path, out: Path, index: Index, written: Mapping[str, tuple[ShardEntry, ...]]) -> None:
    """Move finished shards and their index.

    Args:
        temporary: where they were written.
        out: where they are to lie: it appears by one rename, or takes the shards one by one and the index last.
        index: of all shards that ``out`` will hold.
        written: the new ones by split; older shards of these splits are removed.
    """
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
