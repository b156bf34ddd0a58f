"""From what a user writes (path, glob, braces, folder) to a list of shards, or to a message that helps."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from foundation.data.index import read_index
from foundation.errors import UserError

_REMOTE = re.compile(r"^(pipe:|[a-zA-Z][a-zA-Z0-9+.-]*://)")


def expand(patterns: str | Path | Sequence[str | Path], several_splits: bool = False) -> list[Path]:
    """All shards that some patterns name, sorted, each once.

    Args:
        patterns: paths, globs, brace patterns or folders.
        several_splits: a folder may hold more than one split.

    Raises:
        UserError: no pattern, nothing found, remote, or a folder with several splits.
    """
    if isinstance(patterns, str | Path):
        patterns = [patterns]
    if not patterns:
        raise UserError("no shards given: data.shards is empty; give paths, globs or brace patterns")
    found: set[Path] = set()
    for pattern in patterns:
        text = os.path.expanduser(str(pattern))
        if _REMOTE.match(text):
            raise UserError(f"{text}: remote shards are not supported by this version; give paths of local files")
        found.update(_expand_one(text, several_splits))
    return sorted(found)


def _expand_one(pattern: str, several_splits: bool) -> list[Path]:
    path = Path(pattern)
    if path.is_dir():
        return _folder(path, several_splits)
    if path.is_file():
        return [path]
    names = _braces(pattern)
    paths: list[Path] = []
    missing: list[str] = []
    for name in names:
        if Path(name).is_file():
            paths.append(Path(name))
        elif glob.has_magic(name):
            paths.extend(found for text in glob.glob(name, recursive=True) if (found := Path(text)).is_file())
        else:
            missing.append(name)
    if missing and len(names) > 1:
        listed = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(
            f"the pattern {pattern!r} names {len(names)} shards, {len(missing)} of them missing: {listed}\n"
            + _what_is_there(Path(missing[0]))
        )
    if not paths:
        raise UserError(f"no shards match {pattern!r}\n" + _what_is_there(Path(names[0])))
    return paths


def _braces(pattern: str) -> list[str]:
    if "{" not in pattern:
        return [pattern]
    from braceexpand import braceexpand

    try:
        return list(braceexpand(pattern))
    except ValueError as error:  # its UnbalancedBracesError is one
        raise UserError(
            f"the braces of {pattern!r} do not match; write for example train-{{000000..000012}}.tar"
        ) from error


def _folder(folder: Path, several_splits: bool) -> list[Path]:
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        raise UserError(f"no shards in the folder {folder}\n" + _what_is_there(folder / "train-000000.tar"))
    if several_splits:
        return shards
    index = read_index(folder)
    if index and len(index.splits) > 1:
        splits = {name: {entry.file for entry in entries} for name, entries in index.splits.items()}
    else:
        splits = {}
        for shard in shards:
            splits.setdefault(re.sub(r"[-_]?\d+$", "", shard.stem), set()).add(shard.name)
    if len(splits) > 1:
        listed = ", ".join(f"'{folder / name}-*.tar'" for name in sorted(splits))
        raise UserError(f"{folder} holds several splits; say which one: {listed}")
    return shards


def _what_is_there(wanted: Path) -> str:
    """The folder that was looked into, and what it holds that comes nearest."""
    folder = wanted.parent
    while not folder.is_dir():
        if folder.parent == folder:
            break
        wanted, folder = folder, folder.parent
    try:
        names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    except OSError as error:
        return f"looked into {folder.absolute()}: {error.strerror}"
    if not names:
        return f"looked into {folder.absolute()}: it is empty"
    near = difflib.get_close_matches(wanted.name, names, n=4, cutoff=0.5) or names[:4]
    return (
        f"looked into {folder.absolute()}: no {wanted.name!r} among {len(names)} names there; "
        f"nearest: {', '.join(near)}"
    )
