"""Words for a person that must not end the program: the log may lie on the disk that is full.

Messages name samples and files as they are called and repeat what others said: they are made safe for a terminal, and
secrets in addresses are masked.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings

from foundation.printable import printable
from foundation.redact import redact

_LONGEST = 300  # characters of somebody else's warning


def plural(number: int, one: str, several: str | None = None) -> str:
    """``1 sample``, ``1,200 samples``; ``several`` where more than an s is added to ``one``."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def duration(seconds: float) -> str:
    """``40 s``, ``3 min 20 s``, ``5 h 10 min`` or ``2 d 4 h``."""
    value = max(0, round(seconds))
    if value >= 86400:
        return f"{value // 86400} d {value % 86400 // 3600} h"
    if value >= 3600:
        return f"{value // 3600} h {value % 3600 // 60} min"
    return f"{value // 60} min {value % 60} s" if value >= 60 else f"{value} s"


def _shown(text: str) -> str:
    return printable(redact(text), lines=True, isolates=True)


def to_stderr(text: str) -> None:
    """Print a line on standard error, where that is possible."""
    try:
        print(_shown(text), file=sys.stderr, flush=True)
    except (OSError, ValueError):  # on a full disk, or closed
        return


def to_stdout(text: str) -> None:
    """Print lines of a command on standard output.

    Raises:
        OSError: they cannot be written; :mod:`foundation.cli` makes a message of it.
    """
    print(_shown(text), flush=True)


def warn_in_one_line() -> None:
    """From now on Python's warnings, which libraries give with a line of their source, are one line each, said once."""
    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        text = " ".join(str(message).split())
        if text in said:
            return
        said.add(text)
        to_stderr(f"warning: {text if len(text) <= _LONGEST else text[:_LONGEST] + ' ...'} ({category.__name__})")

    warnings.showwarning = show
    # Worker processes are asked for on purpose, and their number is the user's.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    # Said to those who write code with it.
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)


class Voice:
    """Prints the lines of a run; where they cannot be written, says so once on standard error and goes on.

    When nobody reads them any more (``| head``, a terminal that is gone) the process asks itself to stop by TERM, so
    that a run saves its state first.
    """

    def __init__(self) -> None:
        self._failed = False

    def __call__(self, text: str) -> None:
        try:
            print(_shown(text), flush=True)
            self._failed = False
        except BrokenPipeError:
            if not self._failed:
                self._failed = True
                to_stderr("foundation: nobody reads standard output any more: stopping")
                os.kill(os.getpid(), signal.SIGTERM)
        except (OSError, ValueError) as error:
            if not self._failed:
                to_stderr(f"foundation: standard output cannot be written: {error}; the run goes on")
            self._failed = True

    def close(self) -> None:
        """At the end: what could not be written must not fail once more when the interpreter flushes it."""
        discard_output()


def discard_output() -> None:
    """Write what standard output still holds; where that fails, let go of it."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
