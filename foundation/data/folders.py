"""Folders of a person's own files as data sets, for every modality: class folders, one flat folder, a CSV manifest.

Layouts::

    ROOT/cat/1.jpg, ROOT/dog/7.png          class folders: labels are the folders' names
    ROOT/train/cat/1.jpg, ROOT/test/...     the same with splits (train, val, test)
    ROOT/1.jpg, ROOT/2.jpg                  flat: no labels
    --csv manifest.csv                      columns path, label (optional), split (optional); paths relative to ROOT

The bytes of each file stay untouched. Labels are names: the classes that occur are numbered 0, 1, 2, ... and the index
keeps their names. Names that are whole numbers come first, in the order of the numbers (so that classes 0 to 9 keep
theirs), the others in alphabetical order.
"""

from __future__ import annotations

import argparse
import copy
import csv
import hashlib
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeAlias

from foundation import counter
from foundation.data.tally import Tally, shown
from foundation.data.walk import irregular, walk
from foundation.errors import SampleError, UserError
from foundation.plugins import resolve

Look: TypeAlias = Callable[[bytes, str], dict[str, Any]]
"""Looks at the header of a file, given as its bytes and its extension without a dot: what is worth writing beside it
(JSON); a ValueError says what is wrong with it."""

Describe: TypeAlias = Callable[[Mapping[str, Any]], dict[str, Any]]
"""What is worth writing beside a file (JSON), from the decoded sample."""

_SPLITS = ("train", "val", "valid", "validation", "test")


def add_arguments(parser: argparse.ArgumentParser, extensions: Iterable[str], kind: str) -> None:
    """Declare what the user can choose.

    Args:
        parser: of the data set.
        extensions: of the files to take, without dots.
        kind: what a file should be, with its article: ``a picture``.
    """
    usual = extensions if isinstance(extensions, str) else ",".join(extensions)
    parser.add_argument("--root", type=Path, help="folder with the files (default: the manifest's folder)")
    parser.add_argument("--csv", type=Path, help="manifest with the columns path, label (optional), split (optional)")
    parser.add_argument(
        "--extensions",
        default=usual,
        type=partial(_widened, usual=usual),
        help="take only these files: png,jpg; take others too: +dat; with what such files are: +dat=png "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--test-fraction", type=float, default=0.0, help="share of the training files to set apart (default: 0)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split and the order (default: 0)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"do not decode the files, look only whether each begins like {kind}",
    )


def _widened(text: str, usual: str) -> str:
    """What was asked for, with the usual extensions before those that begin with a plus."""
    words = [word.strip().lower() for word in text.split(",") if word.strip()]
    more = [word[1:] for word in words if word.startswith("+")]
    return ",".join([*(usual.split(",") if more else ()), *(word for word in words if word[0] != "+"), *more])


@dataclass(frozen=True)
class Item:
    """One file.

    Attributes:
        path: where it lies.
        name: what it is called in the data set.
        label: name of its class, or None.
        split: where it goes.
        extension: of its member in the sample, without a dot.
        facts: what else is to be written beside it.
        bytes: its size, where it is known.
        suffix: how its name ends, without a dot, where that is not the extension.
    """

    path: Path
    name: str
    label: str | None
    split: str
    extension: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    bytes: int = 0
    suffix: str | None = None


def samples(
    arguments: argparse.Namespace, look: Look, modality: str | None = None, describe: Describe | None = None
) -> Mapping[str, Split]:
    """The splits, read while they are written.

    Args:
        arguments: as :func:`add_arguments` declared them.
        look: at the header of each file.
        modality: whose decoder tries each file, as training would, unless ``--quick`` is given; None: the data set
            decodes by itself.
        describe: the decoded sample.

    Raises:
        UserError: nothing found, a manifest that cannot be understood, or an impossible option.
    """
    wanted = _wanted(arguments.extensions)
    decoding = None if modality is None else resolve("foundation.modalities.{name}.decode", modality)
    if decoding is not None and (unknown := [e for e in wanted.values() if e not in decoding.EXTENSIONS]):
        raise UserError(
            f"--extensions {unknown[0]}: no extension of this modality (those are {', '.join(decoding.EXTENSIONS)}); "
            f"say what such files are, for example +{unknown[0]}={decoding.EXTENSIONS[0]}"
        )
    _scan.cache_clear()  # files may have come since; classes, asked for afterwards, are those of this scan
    items, left_out = _scan(arguments.root, arguments.csv, arguments.extensions)
    if not 0 <= arguments.test_fraction < 1:
        raise UserError(f"--test-fraction {arguments.test_fraction}: must be at least 0 and less than 1")
    splits: dict[str, list[Item]] = {}
    for item in items:
        splits.setdefault(item.split, []).append(item)
    if arguments.test_fraction:
        if set(splits) != {"train"}:
            raise UserError(f"--test-fraction: the files come with splits of their own ({', '.join(sorted(splits))})")
        splits = _set_apart(splits["train"], arguments.test_fraction, arguments.seed)
    result = shuffled(splits, _class_names(items), arguments.seed, look)
    decode = None if modality is None or arguments.quick else decoder_of(modality)
    tally = copy.deepcopy(left_out)
    for split in result.values():
        split.decode, split.describe, split.left_out = decode, describe, tally
    return result


def shuffled(
    splits: Mapping[str, list[Item]], names: list[str], seed: int, look: Look | None, modality: str | None = None
) -> dict[str, Split]:
    """Splits in random order, for data sets that know their own layout.

    Args:
        splits: files by split.
        names: of the labels, in order.
        seed: of the order.
        look: at each file's header; None: do not look.
        modality: whose decoder tries each file; None: none does.
    """
    numbers = {name: number for number, name in enumerate(names)}
    keys = _keys([item for members in splits.values() for item in members])
    decode = None if modality is None else decoder_of(modality)
    left_out, result = Tally(), {}
    for split, members in splits.items():
        order = counter.permutation(seed, 0, 0, f"folder.order.{split}", len(members))
        chosen = [members[row] for row in order.tolist()]
        result[split] = Split(chosen, keys, numbers, look, decode, left_out=left_out)
    return result


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the labels, in order; empty without labels."""
    return _class_names(_scan(arguments.root, arguments.csv, arguments.extensions)[0])


def _class_names(items: tuple[Item, ...]) -> list[str]:
    return sorted({item.label for item in items if item.label is not None}, key=_place)


def _place(name: str) -> tuple[bool, int, str, str]:
    """Whole numbers first, by their value; then names."""
    number = name.isascii() and name.isdigit()
    digits = (name.lstrip("0") or "0") if number else ""
    return not number, len(digits), digits, name


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


def _wanted(extensions: str) -> dict[str, str]:
    """What files may end in, without a dot, and what their member is called: ``{"jpg": "jpg", "stk": "tif"}``."""
    wanted = {}
    for word in extensions.lower().split(","):
        suffix, _, member = (part.strip().lstrip(".") for part in word.partition("="))
        if suffix:
            wanted[suffix] = member or suffix
    if not wanted:
        raise UserError("--extensions names none: give such as png,jpg")
    return wanted


@lru_cache(maxsize=4)
def _scan(root: Path | None, manifest: Path | None, extensions: str) -> tuple[tuple[Item, ...], Tally]:
    """The files, and those that are left out before one is opened."""
    wanted, left_out = _wanted(extensions), Tally()
    if manifest is not None:
        return _scan_manifest(manifest, root or manifest.parent, wanted, left_out), left_out
    if root is None:
        raise UserError("say where the files are: --root FOLDER or --csv MANIFEST")
    if not root.is_dir():
        raise UserError(f"--root {root}: there is no such folder")
    items = []
    for found in walk(root, left_out):
        suffix = _suffix(found.name, wanted)
        if suffix is None:
            left_out.add(*_other(found.name))
            continue
        parts = found.name.split("/")
        own = len(parts) > 1 and parts[0].lower() in _SPLITS
        split, parts = (parts[0].lower(), parts[1:]) if own else ("train", parts)
        label = shown(parts[0]) if len(parts) > 1 else None
        path = Path(root, found.name)
        items.append(Item(path, found.name, label, split, wanted[suffix], bytes=found.bytes, suffix=suffix))
    if not items:
        raise UserError(f"--root {root}: no files that end in {', '.join(sorted(wanted))}{_but(left_out)}")
    loose = [item.name for item in items if item.label is None]
    if loose and len(loose) < len(items):
        raise UserError(
            f"{root}: {len(loose)} files lie beside the class folders (first: {loose[0]}); move them into one, "
            "or write a manifest (--csv)"
        )
    return tuple(items), left_out


def _but(left_out: Tally) -> str:
    return f"; what is there is left out: {left_out.brief()}" if left_out.total else ""


def _other(name: str) -> tuple[str, str]:
    """Reason and name of a file with an extension that was not asked for."""
    return Path(name).suffix.lower() or "without an extension", name


def _suffix(name: str, wanted: Iterable[str]) -> str | None:
    """How a file's name ends: the longest of the extensions that are wanted (``pcd.bin`` before ``bin``)."""
    lower = name.lower()
    return max((suffix for suffix in wanted if lower.endswith(f".{suffix}")), key=len, default=None)


def _scan_manifest(manifest: Path, root: Path, wanted: Mapping[str, str], left_out: Tally) -> tuple[Item, ...]:
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
    items: list[Item] = []
    lines: dict[tuple[str, str], int] = {}
    for line, row in enumerate(rows, start=2):
        name = row["path"]
        if not name:
            raise UserError(f"{manifest}, line {line}: empty path")
        split = (row.get("split") or "").strip() or "train"
        earlier = lines.setdefault((split, os.path.normpath(name)), line)
        if earlier != line:
            left_out.add("duplicate", name, f"line {line} repeats line {earlier}")
            continue
        suffix = _suffix(name, wanted)
        if suffix is None:
            left_out.add(*_other(name))
            continue
        try:
            facts = os.stat(root / name)
        except OSError as error:
            left_out.add("missing", name, error.strerror or str(error))
            continue
        if not stat.S_ISREG(facts.st_mode):
            kind = "a folder" if stat.S_ISDIR(facts.st_mode) else irregular(facts.st_mode)
            left_out.add("not a regular file", name, kind)
            continue
        label = (row.get("label") or "").strip() or None
        path = root / name
        items.append(Item(path, name, label, split, wanted[suffix], bytes=facts.st_size, suffix=suffix))
    if not items:
        raise UserError(f"{manifest}: {'no row can be used' if rows else 'no rows'}{_but(left_out)}")
    return tuple(items)


@dataclass
class Split:
    """Files of one split, read while they are iterated over.

    Attributes:
        items: the files, in their order.
        keys: of each file, by its name.
        numbers: of the classes, by their name.
        look: at a file's header; None: do not look.
        decode: tries each sample; None: nothing does.
        describe: what to write beside a sample that was decoded.
        left_out: files that cannot be used, with those that were left out before.
        notes: what the decoder had to say about files that can be used.
    """

    items: list[Item]
    keys: Mapping[str, str]
    numbers: Mapping[str, int]
    look: Look | None
    decode: Callable[[dict[str, Any]], Any] | None = None
    describe: Describe | None = None
    left_out: Tally = field(default_factory=Tally)
    notes: Tally = field(default_factory=Tally)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def bytes(self) -> int:
        """Of all files, as far as it is known."""
        return sum(item.bytes for item in self.items)

    @property
    def problems(self) -> list[str]:
        """Files that are left out, for a person: ``NAME: REASON: what is wrong``."""
        return self.left_out.problems()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for item in self.items:
            try:
                yield self._sample(item)
            except OSError as error:
                self.left_out.add("unreadable", item.name, error.strerror or str(error))
            except SampleError as error:
                self.left_out.add(error.reason, item.name, error.detail)

    def _sample(self, item: Item) -> dict[str, Any]:
        """Read, look at and try one file.

        Raises:
            OSError, SampleError: it cannot be used.
        """
        data = item.path.read_bytes()
        if not data:
            raise SampleError("", item.name, "empty", "no bytes")
        sample: dict[str, Any] = {"__key__": self.keys[item.name], item.extension: data}
        facts = {"path": shown(item.name), **item.facts}
        if item.label is not None:
            sample["cls"] = str(self.numbers[item.label]).encode()
            facts["class"] = item.label
        if self.decode is not None:
            decoded = tried(self.decode, {**sample, "json": _json(facts)})
            for note in decoded.get("__notes__", ()):
                self.notes.add(note.reason, item.name, note.detail)
            facts |= {} if self.describe is None else self.describe(decoded)
        try:
            facts |= {} if self.look is None else self.look(data, item.extension)
        except ValueError as error:
            raise SampleError("", item.name, "decode", str(error)) from error
        return sample | {"json": _json(facts)}


def tried(decode: Callable[[dict[str, Any]], Any], sample: Mapping[str, Any]) -> Mapping[str, Any]:
    """A sample that is about to be written, decoded as training will.

    Raises:
        SampleError: it cannot be used.
        UserError: a package is missing.
    """
    try:
        decoded: Mapping[str, Any] = decode({"__shard__": "", "__id__": 0, **sample})
    except (SampleError, UserError):
        raise
    except Exception as error:  # a damaged file may raise anything, and it is left out like any other
        raise SampleError("", sample["__key__"], "decode", f"{type(error).__name__}: {error}") from error
    return decoded


def decoder_of(modality: str) -> Callable[[dict[str, Any]], Any]:
    """What training reads the files of a modality with, unless a recipe says otherwise."""
    decode: Callable[[dict[str, Any]], Any] = resolve("foundation.modalities.{name}.decode", modality).Config().build()
    return decode


def _json(facts: Mapping[str, Any]) -> bytes:
    return json.dumps(facts, ensure_ascii=False).encode()


def _keys(items: Iterable[Item]) -> dict[str, str]:
    """A key for each file by its name: its path without the extension, made safe.

    Where several files would share one (``a.jpg`` and ``a.png``, ``A.jpg`` and ``a.jpg``), each of them gets letters of
    its own name's digest: a key never depends on the order of files, and never names another file in a later build.
    """
    plain = {item.name: _safe(item) for item in items}
    shared = Counter(key.casefold() for key in plain.values())
    return {
        name: key if shared[key.casefold()] == 1 else f"{key[:100]}-{_letters(name)}" for name, key in plain.items()
    }


def _letters(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:8]


def _safe(item: Item) -> str:
    """A name without dots, spaces or anything that a tar or a shell could trip over."""
    suffix = item.extension if item.suffix is None else item.suffix
    stem = item.name[: -len(suffix) - 1] if suffix else item.name
    stem = stem or item.name
    safe = re.sub(r"[^A-Za-z0-9_/-]+", "_", stem).replace("/", "-").strip("-") or "file"
    if len(safe) > 120 or safe != stem.replace("/", "-"):
        # Different names may become equal or too long: a few letters of their digest keep them apart.
        safe = f"{safe[:100]}-{_letters(item.name)}"
    return safe
