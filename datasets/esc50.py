"""ESC-50 environmental sounds, and the ten classes of ESC-10 (Piczak 2015), from the published folder.

Layout::

    ESC-50-master/meta/esc50.csv                columns filename, fold, target, category, esc10, src_file, take
    ESC-50-master/audio/1-100032-A-0.wav        5 s at 44.1 kHz, mono

Clips cut from one original recording lie in one fold, so that whole folds are split apart.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from foundation.data import folders
from foundation.errors import UserError
from foundation.ranges import Range, Seed, argument

CARD = {
    "title": "ESC-50: environmental sounds of 50 classes",
    "licence": "CC BY-NC 3.0; the ten classes of --esc10: CC BY 3.0 (each clip has its own author)",
    "source": "https://github.com/karolpiczak/ESC-50",
    "citation": "K. J. Piczak, ESC: Dataset for Environmental Sound Classification, ACM Multimedia 2015",
    "modality": "audio",
    "splits": ["train", "test"],
    "layout": "wav, cls, json (class, fold, source recording)",
    "size": "1,600 + 400 clips of 5 s, 840 MB (--esc10: 320 + 80, 170 MB)",
}
_COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="the folder that holds meta/esc50.csv and audio/")
    parser.add_argument(
        "--test-fold",
        type=argument(Annotated[int, Range(1, 5)]),
        default=5,
        help="fold of the test split, 1 to 5 (default: 5)",
    )
    parser.add_argument("--esc10", action="store_true", help="only the ten classes of ESC-10")
    parser.add_argument("--seed", type=argument(Seed), default=0, help="of the order (default: 0)")


@lru_cache(maxsize=4)
def _read(root: Path, esc10: bool) -> tuple[dict[str, str], ...]:
    path = root / "meta" / "esc50.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(
            f"--root {root}: no meta/esc50.csv ({error.strerror}); give the unpacked ESC-50-master"
        ) from error
    missing = [name for name in _COLUMNS if not rows or name not in rows[0]]
    if missing:
        raise UserError(f"{path}: no column {', '.join(missing)}, or no rows")
    for line, row in enumerate(rows, start=2):
        if not (row["target"] or "").isdigit() or not (row["fold"] or "").isdigit():
            raise UserError(f"{path}, line {line}: fold {row['fold']!r}, target {row['target']!r}: no whole numbers")
    return tuple(row for row in rows if not esc10 or row["esc10"] == "True")


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the labels, in order of the file's own numbers."""
    rows = _read(arguments.root, arguments.esc10)
    return [name for _, name in sorted({(int(row["target"]), row["category"]) for row in rows})]


def samples(arguments: argparse.Namespace) -> Mapping[str, folders.Split]:
    rows = _read(arguments.root, arguments.esc10)
    splits: dict[str, list[folders.Item]] = {"train": [], "test": []}
    for row in rows:
        split = "test" if int(row["fold"]) == arguments.test_fold else "train"
        facts = {"fold": int(row["fold"]), "source": row["src_file"]}
        path = arguments.root / "audio" / Path(row["filename"]).name
        splits[split].append(folders.Item(path, path.name, row["category"], split, "wav", facts))
    for split, items in splits.items():
        if not items:
            folds = ", ".join(sorted({row["fold"] for row in rows}))
            raise UserError(f"--test-fold {arguments.test_fold} leaves {split!r} empty (folds: {folds})")
    return folders.shuffled(splits, classes(arguments), arguments.seed, look, "audio")


def look(data: bytes, extension: str) -> dict[str, Any]:
    from foundation.modalities.audio.decode import facts

    return facts(data)
