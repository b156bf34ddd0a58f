"""Folders of a person's own files as data sets, for every modality: class folders, one flat folder, a CSV manifest.

Layouts::

    ROOT/cat/1.jpg, ROOT/dog/7.png          class folders: labels are the folders' names in alphabetical order
    ROOT/train/cat/1.jpg, ROOT/test/...     the same with splits (train, val, test)
    ROOT/1.jpg, ROOT/2.jpg                  flat: no labels
    --csv manifest.csv                      columns path, label (optional), split (optional); paths relative to ROOT

The bytes of each file stay untouched.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from foundation import counter
from foundation.errors import UserError
from foundation.ranges import Seed, ShareBelowOne, argument

Look: TypeAlias = Callable[[bytes, str], dict[str, Any]]
"""Looks at a file, given as its bytes and its extension without a dot: what is worth writing beside it (JSON); a
ValueError says what is wrong with it."""

_SPLITS = ("train", "val", "valid", "validation", "test")


def add_arguments(parser: argparse.ArgumentParser, extensions: str, kind: str) -> None:
    """Declare what the user can choose.

    Args:
        parser: of the data set.
        extensions: of the files to take, with commas between.
        kind: what a file should look like, with its article: ``a picture``.
    """
    parser.add_argument("--root", type=Path, help="folder with the files (default: the manifest's folder)")
    parser.add_argument("--csv", type=Path, help="manifest with the columns path, label (optional), split (optional)")
    parser.add_argument("--extensions", default=extensions, help="files to take (default: %(default)s)")
    parser.add_argument(
        "--test-fraction",
        type=argument(ShareBelowOne),
        default=0.0,
        help="share of the training files to set apart (default: 0)",
    )
    parser.add_argument("--seed", type=argument(Seed), default=0, help="of the split and the order (default: 0)")
    parser.add_argument("--no-check", action="store_true", help=f"do not look whether each file begins like {kind}")


@dataclass(frozen=True)
class Item:
    """One file: where it lies, what it is called in the data set, its label and split; its extension without a dot, and
    what else is to be written beside it."""

    path: Path
    name: str
    label: str | None
    split: str
    extension: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def samples(arguments: argparse.Namespace, look: Look) -> Mapping[str, Split]:
    """The splits, read while they are written.

    Args:
        arguments: as :func:`add_arguments` declared them.
        look: at each file, unless ``--no-check`` is given.

    Raises:
        UserError: nothing found, a manifest that cannot be understood, or an impossible option.
    """
    items = _scan(arguments.root, arguments.csv, arguments.extensions)
    if not 0 <= arguments.test_fraction < 1:
        raise UserError(f"--test-fraction {arguments.test_fraction}: must be at least 0 and less than 1")
    splits: dict[str, list[Item]] = {}
    for item in items:
        splits.setdefault(item.split, []).append(item)
    if arguments.test_fraction:
        if set(splits) != {"train"}:
            raise UserError(f"--test-fraction: the files come with splits of their own ({', '.join(sorted(splits))})")
        splits = _set_apart(splits["train"], arguments.test_fraction, arguments.seed)
    return shuffled(splits, _class_names(items), arguments.seed, None if arguments.no_check else look)


def shuffled(splits: Mapping[str, list[Item]], names: list[str], seed: int, look: Look | None) -> dict[str, Split]:
    """Splits in random order, for data sets that know their own layout.

    Args:
        splits: files by split.
        names: of the labels, in order.
        seed: of the order.
        look: at each file; None: do not look.
    """
    numbers = {name: number for number, name in enumerate(names)}
    result = {}
    for split, members in splits.items():
        order = counter.permutation(seed, 0, 0, f"folder.order.{split}", len(members))
        result[split] = Split([members[row] for row in order.tolist()], numbers, look)
    return result


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the labels, in order; empty without labels."""
    return _class_names(_scan(arguments.root, arguments.csv, arguments.extensions))


def _class_names(items: tuple[Item, ...]) -> list[str]:
    names = {item.label for item in items if item.label is not None}
    if all(name.isascii() and name.isdigit() for name in names) and names:
        # Numbers are taken at their word, so that label 7 stays 7 even when 3 is absent.
        return [str(number) for number in range(max(map(int, names)) + 1)]
    return sorted(names)


def _set_apart(items: list[Item], fraction: float, seed: int) -> dict[str, list[Item]]:
    """Split by a hash of each file's name, so that adding files later moves none from one split to the other."""
    names = [int.from_bytes(hashlib.blake2b(item.name.encode(), digest_size=7).digest(), "little") for item in items]
    test = counter.uniform(seed, 0, names, "folder.split", 1)[:, 0] < fraction
    splits = {
        "train": [item for item, apart in zip(items, test, strict=True) if not apart],
        "test": [item for item, apart in zip(items, test, strict=True) if apart],
    }
    for split, members in splits.items():
        if not members:
            raise UserError(f"--test-fraction {fraction} of {len(items)} files leaves the split {split!r} empty")
    return splits


@lru_cache(maxsize=4)
def _scan(root: Path | None, manifest: Path | None, extensions: str) -> tuple[Item, ...]:
    wanted = {"." + extension.strip().lower().lstrip(".") for extension in extensions.split(",") if extension.strip()}
    if manifest is not None:
        return _scan_manifest(manifest, root or manifest.parent, wanted)
    if root is None:
        raise UserError("say where the files are: --root FOLDER or --csv MANIFEST")
    if not root.is_dir():
        raise UserError(f"--root {root}: there is no such folder")
    items = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(tuple(wanted)) and not name.startswith("."):
                path = Path(folder, name)
                parts = path.relative_to(root).parts
                split, parts = (parts[0], parts[1:]) if len(parts) > 1 and parts[0] in _SPLITS else ("train", parts)
                label = parts[0] if len(parts) > 1 else None
                shown = path.relative_to(root).as_posix()
                items.append(Item(path, shown, label, split, _extension(name, wanted)))
    if not items:
        raise UserError(f"--root {root}: no files that end in {', '.join(sorted(wanted))}")
    loose = [item.name for item in items if item.label is None]
    if loose and len(loose) < len(items):
        raise UserError(
            f"{root}: {len(loose)} files lie beside the class folders (first: {loose[0]}); move them into one, "
            "or write a manifest (--csv)"
        )
    return tuple(items)


def _extension(name: str, wanted: set[str]) -> str:
    """Extension of a file without a dot: the longest one wanted (``pcd.bin`` before ``bin``), else whatever it has."""
    found = [extension for extension in wanted if name.lower().endswith(extension)]
    return max(found, key=len).lstrip(".") if found else Path(name).suffix.lower().lstrip(".")


def _scan_manifest(manifest: Path, root: Path, wanted: set[str]) -> tuple[Item, ...]:
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            if "path" not in columns:
                raise UserError(f"{manifest}: no column 'path' (columns: {', '.join(columns) or 'none'})")
            rows = list(reader)
    except OSError as error:
        raise UserError(f"--csv {manifest}: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"--csv {manifest}: {error}") from error
    items = []
    for line, row in enumerate(rows, start=2):
        if not row["path"]:
            raise UserError(f"{manifest}, line {line}: empty path")
        split = row.get("split") or "train"
        extension = _extension(row["path"], wanted)
        items.append(Item(root / row["path"], row["path"], row.get("label") or None, split, extension))
    if not items:
        raise UserError(f"{manifest}: no rows")
    return tuple(items)


@dataclass
class Split:
    """Files of one split; those that cannot be read are left out and named in ``problems``."""

    items: list[Item]
    numbers: Mapping[str, int]
    look: Look | None
    problems: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        taken: Counter[str] = Counter()
        for item in self.items:
            try:
                data = item.path.read_bytes()
            except OSError as error:
                self.problems.append(f"{item.path}: {error.strerror}")
                continue
            try:
                if not data:
                    raise ValueError("empty file")
                facts = {"path": item.name, **item.facts} | (
                    self.look(data, item.extension) if self.look is not None else {}
                )
            except ValueError as error:
                self.problems.append(f"{item.path}: {error}")
                continue
            key = _key(item.name, item.extension)
            taken[key] += 1
            if taken[key] > 1:
                key = f"{key}_{taken[key]}"
            sample = {"__key__": key, item.extension or "bin": data}
            if item.label is not None:
                number = int(item.label) if item.label not in self.numbers else self.numbers[item.label]
                sample["cls"] = str(number).encode()
                facts["class"] = item.label
            sample["json"] = json.dumps(facts, ensure_ascii=False).encode()
            yield sample


def _key(name: str, extension: str) -> str:
    """A name without dots, spaces or anything that a tar or a shell could trip over."""
    stem = name[: -len(extension) - 1] if extension else name
    stem = stem or name
    safe = re.sub(r"[^A-Za-z0-9_/-]+", "_", stem).replace("/", "-").strip("-") or "file"
    if len(safe) > 120 or safe != stem.replace("/", "-"):
        # Different names may become equal or too long: a few letters of their digest keep them apart.
        safe = f"{safe[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return safe
