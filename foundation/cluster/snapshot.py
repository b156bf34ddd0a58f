"""The code that a job runs: a copy of the checkout as it was at submission, so that editing goes on while it waits."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from foundation.copied_code import COMMIT
from foundation.errors import UserError
from foundation.files import replace_json
from foundation.paths import PACKAGE
from foundation.run.origin import code
from foundation.version import VERSION

_FOLDERS = ("foundation", "launchers", "tools", "datasets", "model_zoo")
_GIT_SECONDS = 60.0


@dataclass(frozen=True)
class Code:
    """The code of a job.

    Attributes:
        path: folder to put in front of Python's path; None where the installed package is run as it is.
        version: of the package.
        commit: of git; None where that is unknown.
        modified: whether the files differ from the commit.
    """

    path: Path | None
    version: str
    commit: str | None
    modified: bool | None

    def plain(self) -> dict[str, str | bool | None]:
        """JSON values."""
        return {
            "path": None if self.path is None else str(self.path),
            "version": self.version,
            "commit": self.commit,
            "modified": self.modified,
        }

    def described(self) -> str:
        """One line for a person."""
        changed = " with changes" if self.modified else ""
        commit = f", git commit {self.commit[:9]}{changed}" if self.commit else ""
        where = "as installed" if self.path is None else f"copied to {self.path}"
        return f"foundation {self.version}{commit}, {where}"


def is_checkout(root: Path = PACKAGE.parent) -> bool:
    """Whether the code lies in a checkout, which may be edited while a job waits."""
    return (root / "launchers").is_dir()


def version_of() -> tuple[str, str | None, bool | None]:
    """Version, git commit and whether files differ from it."""
    return (VERSION, *code())


def snapshot(target: Path, checkout: Path = PACKAGE.parent) -> Code:
    """Copy the code of a checkout; an installed package, which nobody edits, is left where it is.

    Args:
        target: folder to copy into; made.
        checkout: folder that holds the package.

    Raises:
        UserError: it cannot be written.
    """
    if not is_checkout(checkout):
        return Code(None, *version_of())
    try:
        version, commit, modified = version_of()
        replace_json(target / COMMIT, {"commit": commit, "modified": modified})
        for file in _files(checkout):
            place = target / file.relative_to(checkout)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, place)
    except OSError as error:
        raise UserError(f"cannot copy the code into {target}: {error}. Make room, or choose another --run") from error
    return Code(target, version, commit, modified)


def _files(checkout: Path) -> Iterator[Path]:
    """What git knows of, as it stands now, and new files that it does not ignore; without git, all."""
    words = [
        "git",
        "-C",
        str(checkout),
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
        "--",
        *_FOLDERS,
    ]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True)
        names = [name for name in done.stdout.split("\0") if name]
    except (OSError, subprocess.SubprocessError):
        names = []
    files = [checkout / name for name in names] or [
        path for folder in _FOLDERS for path in (checkout / folder).rglob("*")
    ]
    for file in files:
        if file.is_file() and file.suffix != ".pyc":
            yield file
