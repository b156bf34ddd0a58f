"""Processes that end with the one that started them, however that one ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

LAUNCHER_VARIABLE = "FOUNDATION_LAUNCHER"
"""Environment variable by which a launcher tells the processes of a run its own process number."""
_PR_SET_PDEATHSIG = 1


def signal_at_parents_death(number: signal.Signals) -> bool:
    """Let the system send this process a signal when the thread that started it ends.

    Returns:
        False where the system (any but Linux) cannot; :func:`launcher_is_gone` is for these.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        return ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) == 0
    except (OSError, AttributeError):
        return False


_launcher: int | None = None


def launcher() -> int | None:
    """Process number of the program that started this process as one of a run; None for a process on its own.

    ``foundation pretrain --processes`` has told :func:`end_with_launcher`, torchrun is the parent.
    """
    if _launcher is not None:
        return _launcher
    return os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None


def end_with_launcher() -> None:
    """In a process of a run: TERM when the launcher ends, also when it has ended already."""
    global _launcher
    told = os.environ.pop(LAUNCHER_VARIABLE, "")  # what this process starts has another parent
    if told.isdigit():  # torchrun starts from whichever thread it likes: its end is looked for instead
        _launcher = int(told)
        signal_at_parents_death(signal.SIGTERM)
        if os.getppid() != _launcher:
            os.kill(os.getpid(), signal.SIGTERM)
