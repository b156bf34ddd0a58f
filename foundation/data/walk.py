"""Walking through a person's folder: every file once, and a word for each that is not taken.

What lies in the folder itself is visited before links are followed, so that a file goes by its own name and not by that
of a link which sorts before it. A folder or file is visited once, by device and inode, however many links lead to it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from foundation.data.tally import Tally
from foundation.voice import plural

SYSTEM = frozenset(
    name.lower()
    for name in (
        "__MACOSX",
        "Thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "Icon\r",
        "@eaDir",
        "#recycle",
        "$RECYCLE.BIN",
        "System Volume Information",
        "lost+found",
        "__pycache__",
    )
)
"""Names, in lower case, that operating systems and storage boxes leave in folders; names with a leading dot too."""

_KINDS = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True)
class Found:
    """A regular file.

    Attributes:
        name: relative to the folder that was walked, with slashes.
        bytes: its size.
    """

    name: str
    bytes: int


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's own."""
    return name.startswith(".") or name.lower() in SYSTEM


def irregular(mode: int) -> str:
    """What something is that is no regular file, for messages; reading a FIFO would wait for ever."""
    return next((text for test, text in _KINDS if test(mode)), "no regular file")


def walk(root: Path, left_out: Tally) -> list[Found]:
    """All files below a folder, in the order of their names.

    Args:
        root: where to begin; its own name may begin with a dot.
        left_out: counts what is not taken: ``hidden``, ``link seen already``, ``broken link``, ``not a regular file``,
            ``unreadable``.
    """
    walker = _Walker(root, left_out)
    walker.visit()
    return sorted(walker.found, key=lambda found: found.name.split("/"))


@dataclass
class _Walker:
    root: Path
    left_out: Tally
    found: list[Found] = field(default_factory=list)
    seen: set[tuple[int, int]] = field(default_factory=set)

    def visit(self) -> None:
        """Visit what lies in the folder itself, then what links lead to, links behind links last."""
        links: list[str] = []
        self._first_visit(self.root.stat())
        self._descend("", links)
        while links:
            following, links = sorted(links), []
            for name in following:
                self._follow(name, links)

    def _descend(self, folder: str, links: list[str]) -> None:
        waiting = [folder]
        while waiting:
            inside = waiting.pop()
            for entry in self._entries(inside):
                name = f"{inside}/{entry.name}" if inside else entry.name
                if is_hidden(entry.name):
                    self._hide(name, entry)
                elif entry.is_symlink():
                    links.append(name)
                else:
                    self._take_own(name, entry, waiting)

    def _entries(self, inside: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(self.root / inside) as entries:
                yield from sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.left_out.add("unreadable", f"{inside}/", error.strerror or str(error))

    def _take_own(self, name: str, entry: os.DirEntry[str], waiting: list[str]) -> None:
        try:
            self._take(name, entry.stat(follow_symlinks=False), waiting, linked=False)
        except OSError as error:
            self.left_out.add("unreadable", name, error.strerror or str(error))

    def _take(self, name: str, facts: os.stat_result, waiting: list[str], *, linked: bool) -> None:
        """A file joins those found, a folder those waiting; a file with two names of its own (hard links) counts twice,
        as its copy would."""
        if stat.S_ISDIR(facts.st_mode):
            if self._first_visit(facts):
                waiting.append(name)
            else:
                self.left_out.add("link seen already", f"{name}/")
        elif not stat.S_ISREG(facts.st_mode):
            self.left_out.add("not a regular file", name, irregular(facts.st_mode))
        elif self._first_visit(facts) or not linked:
            self.found.append(Found(name, facts.st_size))
        else:
            self.left_out.add("link seen already", name)

    def _follow(self, name: str, links: list[str]) -> None:
        try:
            facts = (self.root / name).stat()
        except OSError as error:
            self.left_out.add("broken link", name, error.strerror or str(error))
            return
        waiting: list[str] = []
        self._take(name, facts, waiting, linked=True)
        for folder in waiting:
            self._descend(folder, links)

    def _first_visit(self, facts: os.stat_result) -> bool:
        identity = (facts.st_dev, facts.st_ino)
        new = identity not in self.seen
        self.seen.add(identity)
        return new

    def _hide(self, name: str, entry: os.DirEntry[str]) -> None:
        """Count a hidden file, or the files of a hidden folder without following links."""
        if entry.is_dir(follow_symlinks=False):
            number = sum(len(files) for _, _, files in os.walk(self.root / name))
            if number:
                self.left_out.add("hidden", f"{name}/", plural(number, "file"), number)
        else:
            self.left_out.add("hidden", name)
