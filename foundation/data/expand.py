"""From what a user writes (path, glob, braces, folder) to a list of shards, or to a message that helps."""

from __future__ import annotations

import difflib
import glob
import itertools
import os
import re
import shlex
import tarfile
from collections.abc import Sequence
from pathlib import Path

from foundation.data.addresses import is_remote, local_path, shown
from foundation.data.index import Index, read_index
from foundation.data.kinds import builders_for
from foundation.errors import UserError

_LOOKED_AT = 1000
"""Files of a folder without shards that are looked at, to say what they are."""
_FEW = 4  # names of a folder that are all worth saying


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
        if text.startswith("file://"):
            text = local_path(text)
        if is_remote(text):
            raise UserError(f"{shown(text)}: this command reads local files only; copy the shards here first")
        found.update(_expand_one(text, several_splits))
    return sorted(found)


def _expand_one(pattern: str, several_splits: bool) -> list[Path]:
    path = Path(pattern)
    if path.is_dir():
        return _folder(path, several_splits)
    if path.is_file():
        _refuse_files(path.parent, [path])
        return [path]
    names = braces(pattern)
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
    root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), Path(names[0]).parts[:-1]))
    _refuse_files(root, paths)
    return paths


def braces(pattern: str) -> list[str]:
    """All texts that a brace pattern stands for.

    Raises:
        UserError: the braces do not match.
    """
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
        raise UserError(
            f"no shards in the folder {folder}\n"
            + (_files_in(folder, True) or _what_is_there(folder / "train-000000.tar"))
        )
    if several_splits:
        return shards
    refuse_several_splits(str(folder), [shard.name for shard in shards], read_index(folder))
    return shards


def refuse_several_splits(folder: str, names: Sequence[str], index: Index | None) -> None:
    """Training on a folder must not take in its test split.

    Raises:
        UserError: the shards of these names are of more than one split.
    """
    if index and len(index.splits) > 1:
        splits = set(index.splits)
    else:
        splits = {re.sub(r"[-_]?\d+$", "", name.removesuffix(".tar")) for name in names}
    if len(splits) > 1:
        listed = ", ".join(f"'{folder}/{name}-*.tar'" for name in sorted(splits))
        raise UserError(f"{folder} holds several splits; say which one: {listed}")


def _refuse_files(root: Path, paths: Sequence[Path]) -> None:
    """Pictures, sounds and the like, given as if they were shards.

    Raises:
        UserError: none of the paths is a shard by its name, and the first is none by its content either.
    """
    if any(path.suffix == ".tar" for path in paths) or tarfile.is_tarfile(paths[0]):
        return
    if builders := builders_for(path.name for path in paths):
        raise UserError(f"{paths[0]} is no shard (a .tar archive of samples){_made_by(builders, root)}")


def _files_in(folder: Path, deep: bool) -> str:
    """What to do with a folder most of whose files are samples; empty where they are not, or where it has shards."""
    found: list[str] = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += (os.path.relpath(os.path.join(place, name), folder) for name in sorted(names) if name[0] != ".")
        if len(found) > _LOOKED_AT:
            break
    if any(name.endswith(".tar") for name in found):
        return ""
    found = [name for name in found if deep or os.sep not in name]
    builders = builders_for(found)
    taken = [name for name in found if builders and builders[0] in builders_for([name])]
    if 2 * len(taken) < len(found) or not taken:
        return ""
    return f"{folder.absolute()} holds files such as {taken[0]}, no shards{_made_by(builders, folder)}"


def _made_by(builders: Sequence[str], root: Path) -> str:
    command = f"foundation data build {builders[0]} OUT --root {shlex.quote(str(root))}"
    others = f" (or {', '.join(builders[1:])})" if builders[1:] else ""
    return f"; make shards of the files first: {command}{others}"


def _what_is_there(wanted: Path) -> str:
    """The folder that was looked into, and what it holds that comes nearest."""
    folder = first = wanted.parent
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
    if folder == first and (files := _files_in(folder, False)):
        return files
    near = difflib.get_close_matches(wanted.name, names, n=4, cutoff=0.7)
    if not near and len(names) <= _FEW:
        return f"looked into {folder.absolute()}: no {wanted.name!r}; there are {', '.join(names)}"
    named = f"; nearest: {', '.join(near)}" if near else ""
    return f"looked into {folder.absolute()}: no {wanted.name!r} among {len(names)} names there{named}"
