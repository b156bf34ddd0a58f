"""Whether a copy of a shard is still what was fetched: its SHA-256, kept beside it, and when somebody last looked.

A copy is hashed when it is opened first and then once a day (0.5 to 2 s for a GB), by one of all processes: as long as
its size, time of change and inode are those of the note in ``sums``, the others trust that. So bytes that were changed
by a program are found at the next opening, and those that a disk has lost within a day.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from foundation import schema
from foundation.data.download import Expected
from foundation.files import temporary_name

_FRESH_SECONDS = 86400.0


class _Sum(TypedDict):
    """What is kept of a copy."""

    sha256: str
    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True)
class Facts:
    """What changes when a program writes to a file or puts another one in its place."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> Facts | None:
        """Those of a file; None for a folder or another thing that is no file."""
        return cls(found.st_size, found.st_mtime_ns, found.st_ino) if stat.S_ISREG(found.st_mode) else None


class Sums:
    """The notes about the copies of one cache.

    Args:
        folder: of the notes; made when needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._trusted: dict[str, tuple[Facts, float]] = {}  # where nothing can be written: what this process has seen

    def trouble(
        self, key: str, facts: Facts, descriptor: int, expected: Expected, hash_it: bool = True
    ) -> tuple[bool, str]:
        """Whether a copy may be used, and if not, what is wrong with it.

        Args:
            key: of the copy.
            facts: of its file.
            descriptor: of its file.
            expected: what is known about the shard.
            hash_it: read all of a copy that nobody has looked at lately.

        Returns:
            Usable, and the trouble: empty for a copy that may not be used only because nobody has looked.
        """
        if expected.size is not None and facts.size != expected.size:
            return False, f"it has {facts.size:,} bytes, not {expected.size:,}"
        known = self.known(key)
        digest = expected.sha256 or (known[0] if known else "")
        if not digest:
            return False, "nothing tells what its bytes should be"
        if known == (digest, facts) and self._is_fresh(key):
            return True, ""
        seen, when = self._trusted.get(key, (None, 0.0))
        if seen == facts and time.time() - when < _FRESH_SECONDS:
            return True, ""
        if not hash_it:
            return False, ""
        found = digest_of(descriptor)
        if found != digest:
            return False, f"its SHA-256 is {found[:16]}..., not {digest[:16]}..."
        self.note(key, digest, facts)
        return True, ""

    def note(self, key: str, digest: str, facts: Facts) -> None:
        """Remember that the file with these facts has this SHA-256."""
        self._trusted[key] = (facts, time.time())
        content = {"sha256": digest, "size": facts.size, "mtime_ns": facts.mtime_ns, "inode": facts.inode}
        mine = temporary_name(self.folder / key)
        try:
            self.folder.mkdir(exist_ok=True)
            mine.write_text(json.dumps(content), encoding="utf-8")
            os.replace(mine, self.folder / key)
        except OSError:  # this process knows; others will look for themselves
            with suppress(OSError):
                mine.unlink(missing_ok=True)

    def forget(self, key: str) -> None:
        """The copy is gone."""
        self._trusted.pop(key, None)
        with suppress(OSError):
            (self.folder / key).unlink(missing_ok=True)

    def known(self, key: str) -> tuple[str, Facts] | None:
        """Digest of a copy and the file that had it; None where nobody has left them."""
        try:
            found = schema.read_json(_Sum, self.folder / key)
        except (FileNotFoundError, schema.FormError):
            return None
        return found["sha256"], Facts(found["size"], found["mtime_ns"], found["inode"])

    def _is_fresh(self, key: str) -> bool:
        with suppress(OSError):
            return time.time() - (self.folder / key).stat().st_mtime < _FRESH_SECONDS
        return False


def digest_of(descriptor: int) -> str:
    """SHA-256 of an open file, hexadecimal."""
    digest, offset = hashlib.sha256(), 0
    while piece := os.pread(descriptor, 1 << 20, offset):
        digest.update(piece)
        offset += len(piece)
    return digest.hexdigest()
