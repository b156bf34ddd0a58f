"""The sentry: a program beside each training process, for the day on which nothing in that process can run any more.

A faulty extension that hangs while it holds the interpreter stops the watchdog's thread as well. The thread tells this
program every second how long it may be silent; after that the sentry asks for the stacks, by a signal that is answered
in C, and kills the process. A timer in C could not tell a process that hangs from one that was stopped (SIGSTOP, a job
that the scheduler suspends): this program looks, and time in which it was stopped itself does not count.

Called as ``sentry.py PID SIGNAL FILE``, with the numbers on standard input; it ends when it reads ``end``, and when
that is closed. To close it is not enough where the process has workers: they hold what it held when they were forked.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

END = b"end"
"""What the process says that no longer needs to be watched."""
_LOOK_SECONDS = 1.0
_DUMP_SECONDS = 10.0  # for writing the stacks: the storage may be what hangs
_DEAF = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")  # sent to everybody; the process that is watched decides


def is_stopped(pid: int) -> bool:
    """Whether a process stands still because somebody stopped or traces it."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except OSError:
        return False


def watch(pid: int, number: int, stacks: str) -> None:
    """Wait for standard input to close, or for a silence that is too long.

    Args:
        pid: of the process.
        number: of the signal that makes it write its stacks; 0 for none.
        stacks: file that they are written to.
    """
    allowed, waited = float("inf"), 0.0
    while True:
        begun = time.monotonic()
        if os.getppid() != pid:  # killed: its workers may hold standard input open, and its number may be another's
            return
        if select.select([0], [], [], _LOOK_SECONDS)[0]:
            told = os.read(0, 4096)
            if not told or told.split()[-1] == END:
                return
            allowed, waited = float(told.split()[-1]), 0.0
        elif not is_stopped(pid):
            waited += min(time.monotonic() - begun, 2 * _LOOK_SECONDS)
            if waited > allowed:
                break
    if number:
        before, until = _size(stacks), time.monotonic() + _DUMP_SECONDS
        os.kill(pid, number)
        while _size(stacks) == before and time.monotonic() < until:
            time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


if __name__ == "__main__":
    for name in _DEAF:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    watch(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
