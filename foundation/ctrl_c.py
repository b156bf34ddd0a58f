"""Ctrl-C: while modules are being imported, and how a process that was interrupted ends.

C code that imports a module drops what goes wrong there, a KeyboardInterrupt as well: torch looks for NumPy so. The
program would go on with half a module, and fail seconds later with words that nobody can understand.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
"""Exit code of a process that Ctrl-C has ended."""
_IMPORT = "<frozen importlib._bootstrap>"


def speaks() -> bool:
    """Whether this process says what all processes of its run would: the first one does."""
    return os.environ.get("RANK", "0") == "0"


def end_now(code: int) -> NoReturn:
    """End this process as an interpreter does, but without its waiting for threads and taking its modules apart.

    A person who presses Ctrl-C does not want to wait for a save that hangs; and with torch and all that it loads, the
    modules alone take seconds on a busy machine.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def end_while_importing() -> None:
    """From now on INT ends this process with exit code 130 during an import; else it raises KeyboardInterrupt."""
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # nohup and "&" of a script ignore it
    if is_ours and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _interrupted)


def _interrupted(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT:
            if speaks():
                with contextlib.suppress(OSError):
                    os.write(2, b"foundation: interrupted\n")
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt
