"""Who writes a part of a shard that is being fetched, and whether they still do.

An owner is written into the name of the part's file, so that every process of every node can tell.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from pathlib import Path

FREE = "free"
"""The owner of a part that was given up and may be gone on with."""

_SILENT_SECONDS = 3600.0  # a part of another node that has not grown for so long has no writer


def owner() -> str:
    """Who writes: node, process (with its start, as numbers come again) and thread."""
    node = re.sub(r"[^A-Za-z0-9-]", "_", socket.gethostname())
    return f"{node}~{os.getpid()}~{_start_of(os.getpid())}~{threading.get_ident()}"


def _start_of(process: int) -> str:
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return "0"
    return text.rpartition(")")[2].split()[19]


def alive(owner: str, part: Path) -> bool:
    """Whether the writer of a part lives. Of another node only the age of its file is known."""
    if owner == FREE:
        return False
    node, _, rest = owner.partition("~")
    process, _, rest = rest.partition("~")
    if node != re.sub(r"[^A-Za-z0-9-]", "_", socket.gethostname()) or not process.isdigit():
        try:
            return time.time() - part.stat().st_mtime < _SILENT_SECONDS
        except OSError:
            return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return _start_of(int(process)) == rest.partition("~")[0]
