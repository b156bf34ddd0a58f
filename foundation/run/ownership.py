"""Who trains in a run folder: a lock for one process at a time, and the start of a SLURM job that it belongs to.

A node that is cut off from the controller may still reach the storage: SLURM starts the job anew elsewhere, and the
processes of the start before know nothing of it. The lock alone would keep the new start out, or, where the storage
drops locks of a lost node, let both in. So each start writes its number (``SLURM_RESTART_COUNT``) beside the lock, a
later start of the same job may take the lock over, and who belongs to an earlier one writes nothing any more and ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from foundation import schema
from foundation.errors import UserError
from foundation.files import replace_file, temporary_name

LOCK = ".lock"
OWNER = ".owner"
SUPERSEDED = "a later start of this job trains in {path}: this one writes nothing any more and ends"
_PAUSE = 0.05  # seconds
_INSTANT_SECONDS = 0.2
_PATIENCE_SECONDS = 15.0  # SLURM kills what is left of the start before; then its lock is taken over
_NOTICE_SECONDS = 3.0  # in which processes of the start before find that out: each looks once a second


class Owner(TypedDict):
    """``.owner``: the start of a job that trains in the folder."""

    job: str
    start: int
    host: str
    pid: int


@dataclass(frozen=True)
class Start:
    """A start of a SLURM job."""

    job: str
    number: int


def this_start(environment: Mapping[str, str] | None = None) -> Start | None:
    """The start that this process belongs to; None outside of SLURM."""
    found = os.environ if environment is None else environment
    job, number = found.get("SLURM_JOB_ID"), found.get("SLURM_RESTART_COUNT") or "0"
    return Start(job, int(number)) if job and number.isdigit() else None


def owner(folder: Path) -> Owner | None:
    """The start of a job that owns a folder; None where none does, or that cannot be read."""
    try:
        return schema.read_json(Owner, folder / OWNER)
    except (FileNotFoundError, schema.FormError):
        return None


def superseded(folder: Path) -> bool:
    """Whether a later start of the job that this process belongs to owns a folder."""
    own = this_start()
    if own is None:
        return False
    found = owner(folder)
    return found is not None and found["job"] == own.job and found["start"] > own.number


def lock(folder: Path, say: Callable[[str], None]) -> int:
    """Take the lock of a folder.

    Args:
        folder: of the run.
        say: gets a line where the lock is taken over from an earlier start of this job.

    Returns:
        The descriptor that holds it.

    Raises:
        UserError: another process has it.
        OSError: the folder cannot be written.
    """
    own, before = this_start(), owner(folder)
    succeeds = own is not None and before is not None and before["job"] == own.job and before["start"] < own.number
    # `foundation runs` holds a lock for an instant when it looks at one.
    descriptor = _tried(folder, _PATIENCE_SECONDS if succeeds else _INSTANT_SECONDS)
    if descriptor is None:
        if before is None or not succeeds:
            holder = f" (job {before['job']}, process {before['pid']} on {before['host']})" if before else ""
            raise UserError(f"another process is training in {folder}{holder}: stop it or choose another --run")
        say(
            f"a process of an earlier start of this job (process {before['pid']} on {before['host']}) still holds "
            f"{folder}: the lock is taken over"
        )
        descriptor = _take_over(folder)
    if own is None:
        (folder / OWNER).unlink(missing_ok=True)
        return descriptor
    content: Owner = {"job": own.job, "start": own.number, "host": socket.gethostname(), "pid": os.getpid()}
    replace_file(folder / OWNER, json.dumps(content).encode())
    if succeeds:
        time.sleep(_NOTICE_SECONDS)
    return descriptor


def _tried(folder: Path, seconds: float) -> int | None:
    """The lock, or None where another process has it for so long."""
    end = time.monotonic() + seconds
    while (descriptor := _try(folder)) is None and time.monotonic() < end:
        time.sleep(_PAUSE)
    return descriptor


def _try(folder: Path) -> int | None:
    """The lock, or None where another process has it."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with contextlib.suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(folder / LOCK)):  # not one that was taken over a moment ago
            return descriptor
    os.close(descriptor)
    return None


def _take_over(folder: Path) -> int:
    """Put a lock of one's own in the place of the one that another process holds."""
    temporary = temporary_name(folder / LOCK)
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    temporary.replace(folder / LOCK)
    return descriptor
