"""A folder of plain files as shards, built once in the user's cache and again when the files have changed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from foundation.api.command import command
from foundation.data.build import available, load
from foundation.data.tally import Tally
from foundation.data.walk import walk
from foundation.errors import UserError
from foundation.modalities.parts import part
from foundation.paths import user_cache
from foundation.voice import to_stderr

_UNUSED_SECONDS = 86400.0
"""Shards of an earlier state of a folder are removed when nobody has asked for them for so long."""
_USED = "used"
_BESIDE = ("csv", "txt")
"""Files that lie beside others, such as lists of labels: they say what a folder holds where nothing else does."""


@dataclass(frozen=True)
class Own:
    """A data set script that takes a person's own files.

    Attributes:
        dataset: its name.
        recipes: shipped recipes to begin with, ``cpu`` and perhaps ``gpu``.
        extensions: of the files that it takes.
    """

    dataset: str
    recipes: Mapping[str, str]
    extensions: frozenset[str]


@dataclass(frozen=True)
class Shards:
    """What a folder of files has become.

    Attributes:
        modality: of the files.
        train: pattern of the shards to train on.
        folder: that they lie in.
    """

    modality: str
    train: str
    folder: Path


@cache
def own_files() -> dict[str, Own]:
    """Scripts for own files, by modality."""
    found: dict[str, Own] = {}
    for name in available():
        card = load(name).card
        if "recipes" in card:
            extensions = frozenset(part(str(card["modality"]), "decode").EXTENSIONS)
            found[str(card["modality"])] = Own(name, dict(card["recipes"]), extensions)
    return found


def holds_shards(folder: Path) -> bool:
    """Whether a folder is one of shards."""
    return any(folder.glob("*.tar"))


def shards_of_folder(folder: Path, modality: str | None = None, **options: Any) -> Shards:
    """Shards of the files below a folder.

    Args:
        folder: with the files, in the layouts of ``foundation data build``.
        modality: of the files; None: as their extensions say.
        options: further ones of that command, such as ``rate=100`` where nothing in the files says it.

    Raises:
        UserError: no files, or files of which the modality does not follow.
    """
    root = folder.resolve()
    if not root.is_dir():
        raise UserError(f"data: there is no folder {folder}")
    files = [(one.name, one.bytes, os.stat(root / one.name).st_mtime_ns) for one in walk(root, Tally())]
    kind = modality or modality_of([name for name, _, _ in files], folder)
    if kind not in own_files():
        raise UserError(f"modality {kind!r} is none of {', '.join(own_files())}")
    words = [word for key, value in sorted(options.items()) for word in (f"--{key.replace('_', '-')}", str(value))]
    listing = hashlib.sha256("\n".join(map(repr, [kind, *words, *files])).encode("utf-8", "surrogatepass")).hexdigest()
    place = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    home = user_cache() / "folders"
    home.mkdir(parents=True, exist_ok=True)
    out = home / f"{place}-{listing[:16]}"
    with _locked(home / f"{place}.lock"):
        if not (out / "index.json").is_file():
            _build(root, own_files()[kind].dataset, words, out)
        (out / _USED).touch()
        _forget_others(home, place, out)
    splits = sorted(path.name for path in out.glob("train-*.tar"))
    if not splits:
        raise UserError(f"data: {folder} has no training files: splits are folders right below it, and none is 'train'")
    return Shards(kind, str(out / "train-*.tar"), out)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time builds the shards of a folder; the others wait."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(root: Path, dataset: str, words: list[str], out: Path) -> None:
    part_way = out.with_name(f"{out.name}.part")
    shutil.rmtree(part_way, ignore_errors=True)
    try:
        command("data", "build", dataset, str(part_way), "--root", str(root), *words)
        shutil.rmtree(out, ignore_errors=True)
        part_way.rename(out)
        to_stderr(f"these shards are kept in {out}, and made anew when the files in {root} change")
    finally:
        shutil.rmtree(part_way, ignore_errors=True)


def _forget_others(home: Path, place: str, current: Path) -> None:
    """Remove shards of earlier states of the folder that nobody uses any more."""
    for other in home.glob(f"{place}-*"):
        marker = other / _USED
        last = marker.stat().st_mtime if marker.is_file() else 0.0
        if other != current and other.is_dir() and time.time() - last > _UNUSED_SECONDS:
            shutil.rmtree(other, ignore_errors=True)


def modality_of(names: list[str], folder: Path) -> str:
    """What the files are, by their extensions.

    Raises:
        UserError: there are none that can be read, or two modalities could be meant.
    """
    votes: Counter[str] = Counter()
    unsure: Counter[tuple[str, ...]] = Counter()
    for name in names:
        extension = Path(name).suffix.lower().removeprefix(".")
        able = tuple(kind for kind, own in own_files().items() if extension in own.extensions)
        if len(able) == 1 and extension not in _BESIDE:
            votes[able[0]] += 1
        elif able:
            unsure[able] += 1
    if len(votes) == 1:
        return next(iter(votes))
    if votes:
        counts = ", ".join(f"{count} of {kind}" for kind, count in votes.most_common())
        raise UserError(f"data: {folder} has files of several kinds ({counts}): say which by modality=...")
    if unsure:
        able = unsure.most_common(1)[0][0]
        raise UserError(f"data: the files in {folder} can be of {' or '.join(able)}: say which by modality=...")
    raise UserError(
        f"data: {folder} has no files that can be trained on ({len(names)} files, none with a known ending)"
    )
