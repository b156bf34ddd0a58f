"""Stacks on demand: a loader worker that hangs can still say where."""

from __future__ import annotations

import contextlib
import faulthandler
import glob
import os
import signal
import time
from collections.abc import Iterable

PREFIX_VARIABLE = "FOUNDATION_STACKS"
"""Environment variable by which a training process tells its workers, however they start, where stacks belong: a path,
to which each adds ``-worker-PID.txt``."""
SIGNAL = getattr(signal, "SIGUSR1", None)
"""Asks a worker for its stacks; None where there is no such signal."""


def worker_file(prefix: str, pid: int | str) -> str:
    """Path of a worker's stacks."""
    return f"{prefix}-worker-{pid}.txt"


def worker_pids(prefix: str) -> list[int]:
    """Process numbers of the workers that have, or had, a file for their stacks."""
    found = glob.glob(worker_file(glob.escape(prefix), "*"))
    return [int(number) for path in found if (number := path.rpartition("-")[2].removesuffix(".txt")).isdigit()]


def ask_workers(prefix: str, pids: Iterable[int], seconds: float = 3.0) -> tuple[list[str], list[str]]:
    """Have workers write down where they are.

    Args:
        prefix: where their files lie.
        pids: their process numbers; those that have no file are left alone.
        seconds: to wait for them.

    Returns:
        Files of those that answered, and of those that did not.
    """
    asked = []
    for pid in pids:
        path = worker_file(prefix, pid)
        with contextlib.suppress(OSError):
            if SIGNAL is not None and os.path.exists(path):
                os.kill(pid, SIGNAL)
                asked.append(path)
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(os.path.getsize(path) == 0 for path in asked):
        time.sleep(0.05)
    silent = [path for path in asked if os.path.getsize(path) == 0]
    return [path for path in asked if path not in silent], silent


def answer_signal() -> bool:
    """In a worker: from now on :data:`SIGNAL` writes the stacks of all threads, even while one of them hangs in C.

    Returns:
        False where nobody said where they belong; the signal is then left as it is.
    """
    prefix = os.environ.get(PREFIX_VARIABLE)
    if not prefix or SIGNAL is None:
        return False
    try:
        file = open(worker_file(prefix, os.getpid()), "w")  # noqa: SIM115 - open as long as the process lives
    except OSError:
        return False
    faulthandler.register(SIGNAL, file=file, all_threads=True)
    _open_files.append(file)
    return True


_open_files: list[object] = []  # a closed file would be written to by its number, whatever has that number by then
