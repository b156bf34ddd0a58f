"""What killed loader workers leave in shared memory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def lives(pid: int) -> bool:
    """Whether a process has this number; one that ended and was not waited for holds nothing any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def free_shared_memory(pid: int, folder: Path = Path("/dev/shm")) -> bool:
    """Remove the tensors that a process had begun to hand over when it was killed.

    A loader worker makes a named file for each tensor, and takes the name away once the file is open; killed in
    between, it leaves the file, and its memory, until the machine starts again.

    Args:
        pid: process number; nothing is done while a process has it.
        folder: where the system keeps shared memory; nothing is done where there is none.

    Returns:
        False while a process has the number: what it will leave is not known yet. Files of other users are left alone.
    """
    if lives(pid):
        return False
    for path in folder.glob(f"torch_{pid}_*"):
        with contextlib.suppress(OSError):
            if path.stat().st_uid == os.getuid():
                path.unlink()
    return True
