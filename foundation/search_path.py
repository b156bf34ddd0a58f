"""Where Python looks for modules: never in the working directory, unless the user says so.

``python -m`` and every worker that multiprocessing starts put the working directory in front of the standard library,
so that a ``statistics.py`` among someone's data would be run. Imports nothing but what Python has loaded already.
"""

import os
import sys

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_VARIABLE = "PYTHONSAFEPATH"
_MARK = "FOUNDATION_SAFEPATH"  # the variable above was set here and not by the user

FIND = (
    "import sys; place = next((n for n, p in enumerate(sys.path) if p.endswith('-packages')), len(sys.path)); "
    f"sys.path.insert(place, {_ROOT!r})"
)
"""What a program runs first to import this very code, with or without an installation."""

START = f"{FIND}; from foundation.cli import main; sys.exit(main())"
"""What ``python -P -c`` runs to be the ``foundation`` command of this very code, with or without an installation."""


def leave_working_directory() -> None:
    """Take the working directory off the path of this process and of the Python processes that it starts.

    It stays where ``PYTHONPATH`` names it (``PYTHONPATH=. foundation ...``) and where this package itself lies in it.
    """
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:  # removed meanwhile
        here = ""
    named = _named()
    if os.path.realpath(_ROOT) != here and here not in map(os.path.realpath, named):
        standard = os.path.dirname(os.__file__)
        before = sys.path.index(standard) if standard in sys.path else 1  # what stands in front of Python's own
        sys.path[:before] = [entry for entry in sys.path[:before] if entry and os.path.realpath(entry) != here]
    if _VARIABLE not in os.environ:
        os.environ[_VARIABLE] = os.environ[_MARK] = "1"
    if named:
        os.environ["PYTHONPATH"] = os.pathsep.join(named)
    else:
        os.environ.pop("PYTHONPATH", None)


def environment_of_others() -> dict[str, str]:
    """The environment for a program that is not ours: as the user has set it."""
    kept = dict(os.environ)
    if kept.pop(_MARK, None) is not None:
        kept.pop(_VARIABLE, None)
    return kept


def _named() -> list[str]:
    """Folders that ``PYTHONPATH`` names. An empty entry (``PYTHONPATH=:/lib``) is a slip, and means none, though Python
    takes it for the working directory."""
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
