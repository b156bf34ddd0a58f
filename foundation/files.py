"""Writing files so that they survive: whole or not at all, and synced."""

from __future__ import annotations

import argparse
import fcntl
import glob
import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from foundation.errors import UserError

_POLL = 0.05  # seconds between two looks at a lock that another process holds
TEMPORARY = ".tmp-"
"""Marks the name of what is being written; whatever still bears it after its writer has died is a leftover."""


def matching(folder: Path, pattern: str) -> list[Path]:
    """Paths in a folder whose names match, sorted; none where the folder is gone, even if another process removes it
    meanwhile (which ``Path.glob`` takes for an error).

    Args:
        folder: where to look.
        pattern: of the name, as of :mod:`glob`; ``*`` matches no hidden file.
    """
    return sorted(map(Path, glob.glob(os.path.join(glob.escape(str(folder)), pattern))))


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the content of a file survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes) -> None:
    """Write and sync one file."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no other writer has; hidden for files."""
    return path.with_name(f".{path.name}{TEMPORARY}{uuid.uuid4().hex[:8]}")


@contextmanager
def held(descriptor: int, wait: bool = True, waiting: Callable[[], object] | None = None) -> Iterator[bool]:
    """Hold the lock of an open file, which all processes of a node (of most networks' file systems, of all) see.

    Args:
        descriptor: of the file; it stays open.
        wait: for who holds it; else False is given then.
        waiting: called once, when somebody else holds it.
    """
    taken = False
    try:
        while not taken:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                taken = True
            except BlockingIOError:
                if not wait:
                    break
                if waiting is not None:
                    waiting()
                    waiting = None
                time.sleep(_POLL)
            except OSError:
                taken = True  # a file system without locks: everyone works for themselves
        yield taken
    finally:
        if taken:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # a forked child may hold a copy of the descriptor


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which replaces ``path`` when the ``with`` block ends well: a reader sees the old content or
    the new, never a part. Makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file by some content; see :func:`replacing`."""
    with replacing(path) as file:
        file.write(content)


def require_writable(path: Path, instead: str = "") -> None:
    """Refuse a place for a file that is written only after long work.

    Args:
        path: of the file.
        instead: what to do about it, for the message.

    Raises:
        UserError: it is a folder or a device, or its folder cannot be made or written to.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: name the file to write")
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is a pipe or a device: name the file to write")
    there = next((folder for folder in path.absolute().parents if os.path.lexists(folder)), Path("/"))
    problem = _problem_of(there)
    if problem:
        raise UserError(f"cannot write {path}: {problem}" + (f"; {instead}" if instead else ""))


def require_new(path: Path, overwrite: bool, instead: str = "choose another name", option: str = "--overwrite") -> None:
    """As :func:`require_writable`, and refuse a file that is there unless it may be replaced.

    Raises:
        UserError: as from there; it exists.
    """
    require_writable(path, instead)
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: {instead}, or add {option}")


def output_file(text: str) -> Path:
    """An argument of a command: a file that is written when its work is done, by :func:`write_output`.

    Raises:
        ArgumentTypeError: it could not be written.
    """
    path = Path(text)
    if path.exists() and not path.is_dir() and os.access(path, os.W_OK):  # also /dev/stdout
        return path
    try:
        require_writable(path)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


def write_output(path: Path, text: str) -> None:
    """Write what a command was asked for, into a device as well; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _problem_of(folder: Path) -> str:
    """Why no file can be made in a folder; empty where one can: one is made, and gone again."""
    if not folder.is_dir():
        return f"{folder} is no folder"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"no permission to write into {folder}"
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:  # such as /proc, and what is mounted to be read only
        return f"no file can be made in {folder} ({error.strerror})"


def replace_json(path: Path, content: Mapping[str, Any]) -> None:
    """:func:`replace_file` with indented JSON."""
    replace_file(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
