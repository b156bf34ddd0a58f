"""Ctrl-C while modules are being imported.

C code that imports a module drops what goes wrong there, a KeyboardInterrupt as well: torch looks for NumPy so. The
program would go on with half a module, and fail seconds later with words that nobody can understand.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType

_IMPORT = "<frozen importlib._bootstrap>"
_EXIT_CODE = 130


def end_while_importing() -> None:
    """From now on INT ends this process with exit code 130 during an import; else it raises KeyboardInterrupt."""
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # nohup and "&" of a script ignore it
    if is_ours and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _interrupted)


def _interrupted(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT:
            with contextlib.suppress(OSError):
                os.write(2, b"foundation: interrupted\n")
            os._exit(_EXIT_CODE)
        frame = frame.f_back
    raise KeyboardInterrupt
