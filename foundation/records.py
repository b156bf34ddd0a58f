"""Records: what a run writes about itself beside its checkpoints. None of them may end the run."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from foundation.files import replace_file
from foundation.voice import to_stderr

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No room: a full disk, a used-up quota, a limit of file sizes."""


class Records:
    """Keeps records: one that cannot be written is said once and never raises; when it can again, that is said too.

    Safe to use from several threads.

    Args:
        say: gets each line meant for a person.
    """

    def __init__(self, say: Callable[[str], None] = to_stderr) -> None:
        self._say = say
        self._failing: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def keep(
        self,
        trouble: str,
        path: Path,
        write: Callable[[], object],
        meanwhile: str = "training goes on",
        again: str = "",
    ) -> bool:
        """Write a record.

        Args:
            trouble: what to say before the path when it cannot be done, such as ``cannot write``.
            path: where it goes.
            write: does it; only an ``OSError`` is forgiven.
            meanwhile: what becomes of the run and the record.
            again: to add when it can be written again.

        Returns:
            Whether it is written.
        """
        try:
            write()
        except OSError as error:
            self.failed(trouble, path, error, meanwhile)
            return False
        with self._lock:
            failed = (trouble, path.name) in self._failing
            self._failing.discard((trouble, path.name))
        if failed:
            self._say(f"{path} can be written again{again}")
        return True

    def failed(self, trouble: str, path: Path, error: OSError, meanwhile: str = "training goes on") -> None:
        """A record could not be written: say so, once."""
        reason = str(error.strerror or error)
        with self._lock:
            said = (trouble, path.name) in self._failing
            self._failing.add((trouble, path.name))
        if not said:
            self._say(f"{trouble} {path}: {reason}; {meanwhile}")


def append_line(path: Path, content: Mapping[str, Any]) -> None:
    """Add a line of JSON in one write, so that those of several processes do not mix; makes the file.

    Raises:
        OSError: it cannot be written whole.
    """
    line = json.dumps(content).encode() + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line  # a kill or a full disk left half a line
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)


def replace_or_overwrite(path: Path, content: bytes, replace: Callable[[Path, bytes], None] = replace_file) -> None:
    """Replace a file whole; on a full disk, write into the room that it has already.

    For small JSON whose last word matters more than that no reader ever sees half of it.

    Args:
        path: of the file.
        content: new.
        replace: replaces a file.

    Raises:
        OSError: neither is possible.
    """
    try:
        replace(path, content)
    except OSError as error:
        if error.errno not in FULL or not _overwrite(path, content):
            raise


def _overwrite(path: Path, content: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY)
    except OSError:
        return False
    try:
        # Filled up with blanks, which JSON allows: a kill before the cut leaves nothing of the old text.
        written = os.pwrite(descriptor, content.ljust(os.fstat(descriptor).st_size), 0)
        os.ftruncate(descriptor, len(content))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return written >= len(content)
