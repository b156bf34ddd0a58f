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
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path

from foundation import counter
from foundation.data.items import Describe, Item, Look, Split, decoder_of, keys_of
from foundation.data.manifest import read_manifest
from foundation.data.tally import Tally, shown
from foundation.data.walk import irregular, walk
from foundation.errors import UserError
from foundation.plugins import resolve
from foundation.ranges import Seed, ShareBelowOne, argument
from foundation.voice import plural

_SPLITS = ("train", "val", "valid", "validation", "test")
_SIDE_CARS = frozenset(("aae", "json", "lab", "srt", "thm", "txt", "vtt", "xml", "xmp", "yaml", "yml"))
"""Extensions of files that cameras and programs put beside others of the same name."""
_LIKE_SPLITS = frozenset((*_SPLITS, "training", "testing", "dev", "eval", "evaluation"))


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
        "--test-fraction",
        type=argument(ShareBelowOne),
        default=0.0,
        help="share of the files of each class to set apart for the test (default: 0)",
    )
    parser.add_argument("--seed", type=argument(Seed), default=0, help="of the split and the order (default: 0)")
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
    items, left_out, beside = _scan(arguments.root, arguments.csv, arguments.extensions)
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
    notes = next(iter(result.values())).notes
    notes.merge(beside)
    if arguments.csv is None:
        notes.merge(_unseen_splits(items))
    notes.merge(_missing_classes(splits))
    return result


def _missing_classes(splits: Mapping[str, list[Item]]) -> Tally:
    """Classes that have files in one split and none in another one; splits without any labels do not count."""
    files = {split: Counter(item.label for item in items if item.label) for split, items in splits.items()}
    labelled = {split: counts for split, counts in files.items() if counts}
    notes = Tally()
    for split, counts in labelled.items():
        for label in sorted({name for others in labelled.values() for name in others} - set(counts), key=_place):
            there = ", ".join(f"{plural(n[label], 'file')} in {other}" for other, n in labelled.items() if n[label])
            notes.add(f"class without a file in {split}", label, there)
    return notes


def _unseen_splits(items: Iterable[Item]) -> Tally:
    """Folders that are called like a split and count as classes or parts of one: test files may be in training."""
    files: Counter[tuple[str, str]] = Counter()
    for item in items:
        parts = item.name.split("/")[:-1]
        first = int(bool(parts) and parts[0].lower() in _SPLITS)
        for depth, part in enumerate(parts[first:], start=first + 1):
            if part.lower() in _LIKE_SPLITS:
                files["/".join(parts[:depth]), item.split] += 1
    notes = Tally()
    for (folder, split), number in sorted(files.items()):
        text = f"with {plural(number, 'file')} in the split {split!r}; splits are folders right below --root called"
        notes.add("in a folder called like a split", f"{folder}/", f"{text} {', '.join(_SPLITS)}", number)
    return notes


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
    keys = keys_of([item for members in splits.values() for item in members])
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
    """Set the same share of every class apart: the files whose names have the lowest numbers by a hash.

    Every class of two files or more has one on either side. When files come or go later, few move to the other side: as
    many as the class's share of the test changes by, where a plain threshold would move none but miss the share.
    """
    names = [int.from_bytes(hashlib.blake2b(item.name.encode(), digest_size=7).digest(), "little") for item in items]
    numbers = counter.uniform(seed, 0, names, "folder.split", 1)[:, 0].tolist()
    by_class: dict[str | None, list[tuple[float, str]]] = {}
    for item, number in zip(items, numbers, strict=True):
        by_class.setdefault(item.label, []).append((number, item.name))
    apart: set[str] = set()
    for ranked in map(sorted, by_class.values()):
        count = min(max(1, round(fraction * len(ranked))), len(ranked) - 1)
        apart.update(name for _, name in ranked[:count])
    splits = {
        "train": [item for item in items if item.name not in apart],
        "test": [item for item in items if item.name in apart],
    }
    for split, members in splits.items():
        if not members:
            raise UserError(
                f"--test-fraction {fraction} of {plural(len(items), 'file')} leaves the split {split!r} empty"
            )
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
def _scan(root: Path | None, manifest: Path | None, extensions: str) -> tuple[tuple[Item, ...], Tally, Tally]:
    """The files, those that are left out before one is opened, and those that lie beside one that is taken."""
    wanted, left_out, beside = _wanted(extensions), Tally(), Tally()
    if manifest is not None:
        return _scan_manifest(manifest, root or manifest.parent, wanted, left_out), left_out, beside
    if root is None:
        raise UserError("say where the files are: --root FOLDER or --csv MANIFEST")
    if not root.is_dir():
        raise UserError(f"--root {root}: there is no such folder")
    items, others, taken = [], [], set()
    for found in walk(root, left_out):
        suffix = _suffix(found.name, wanted)
        if suffix is None:
            others.append(found.name)
            continue
        taken |= {found.name, found.name[: -len(suffix) - 1]}
        parts = found.name.split("/")
        own = len(parts) > 1 and parts[0].lower() in _SPLITS
        split, parts = (parts[0].lower(), parts[1:]) if own else ("train", parts)
        label = shown(parts[0]) if len(parts) > 1 else None
        path = Path(root, found.name)
        items.append(Item(path, found.name, label, split, wanted[suffix], bytes=found.bytes, suffix=suffix))
    for name in others:
        stem, _, suffix = name.rpartition(".")
        if suffix.lower() in _SIDE_CARS and stem in taken:
            beside.add(f".{suffix.lower()} beside a file that is taken, not read", name)
        else:
            left_out.add(*_other(name))
    if not items:
        raise UserError(f"--root {root}: no files that end in {', '.join(sorted(wanted))}{_but(left_out)}")
    return tuple(items), left_out, beside


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
    rows = read_manifest(manifest)
    items: list[Item] = []
    lines: dict[tuple[str, str], int] = {}
    for row in rows:
        name, line = row.path, row.line
        split = row.split.lower() if row.split.lower() in _SPLITS else row.split or "train"
        earlier = lines.setdefault((split, os.path.abspath(root / name)), line)
        if earlier != line:
            left_out.add("duplicate", name, f"line {line} repeats line {earlier}")
            continue
        suffix = _suffix(name, wanted)
        if suffix is None:
            left_out.add(*_other(name))
            continue
        try:
            facts = os.stat(root / name)
        except (OSError, ValueError) as error:  # a zero byte is no part of a path
            left_out.add("missing", name, getattr(error, "strerror", None) or str(error))
            continue
        if not stat.S_ISREG(facts.st_mode):
            kind = "a folder" if stat.S_ISDIR(facts.st_mode) else irregular(facts.st_mode)
            left_out.add("not a regular file", name, kind)
            continue
        path = root / name
        items.append(Item(path, name, row.label or None, split, wanted[suffix], bytes=facts.st_size, suffix=suffix))
    if not items:
        raise UserError(f"{manifest}: {'no row can be used' if rows else 'no rows'}{_but(left_out)}")
    return tuple(items)


__all__ = ["Describe", "Item", "Look", "Split", "add_arguments", "classes", "samples", "shuffled"]
