"""What every probe leaves behind: its JSON file, and a line for a person while it works."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import numpy as np

from foundation import schema
from foundation.version import VERSION
from foundation.voice import to_stderr

T = TypeVar("T")

FORMAT = 1
"""Version of the JSON files; readers refuse what is newer."""
MOST_BYTES = 64 * schema.MEBIBYTE


def versions() -> dict[str, str]:
    """Versions that a number depends on."""
    import torch

    return {
        "foundation": VERSION,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


class Row(TypedDict, total=False):
    """The score of one feature under one treatment and setting, in [0, 1] under the name that the result's ``metric``
    says (``top1``), with its 95 % interval and the number of test samples."""

    name: str
    features: str
    treatment: str
    top1: float | None
    balanced: float | None
    interval: tuple[float, float] | None
    n: int
    k: int
    cost: float
    head: str


class Confusion(TypedDict, total=False):
    """Counts of test samples by true class (row) and predicted class (column); ``k`` neighbours.

    ``classes`` are labels as the samples have them, ``names`` what the index of the training shards calls those.
    """

    counts: list[list[float]] | None
    classes: list[str] | None
    names: list[str] | None
    k: int


class Split(TypedDict, total=False):
    """The shards of a split."""

    shards: list[str]


class Result(TypedDict, total=False):
    """What the commands know of a probe's result file; it may say more."""

    format: int
    probe: str
    metric: str
    model: str
    created: str
    results: list[Row]
    confusion: Confusion | None
    data: dict[str, Split | str | None]


def read_results(folder: Path, say: Callable[[str], object] | None = None) -> list[dict[str, Any]]:
    """All probe results of a run, oldest first, each with the name of its ``file``.

    Args:
        folder: of the results.
        say: is told of each file that is damaged or of a newer format, and left out.
    """
    results = []
    for path in sorted(folder.glob("*.json"), key=lambda item: (item.lstat().st_mtime, item.name)):
        try:
            content: Any = schema.read_json(Result, path, MOST_BYTES)
            if content.get("format") != FORMAT:
                raise schema.FormError(f"{path} has format {content.get('format')!r}, this version reads {FORMAT}")
            if "probe" not in content:
                raise schema.FormError(f"{path} is damaged: it lacks 'probe'")
            counts = (content.get("confusion") or {}).get("counts") or []
            if any(len(row) != len(counts) for row in counts):
                raise schema.FormError(f"{path} is damaged: 'confusion.counts' has not as many columns as rows")
        except (FileNotFoundError, schema.FormError) as error:
            if say is not None:
                say(f"left out: {error}")
            continue
        results.append({**content, "file": path.name})
    return results


def progress(
    items: Iterable[T], total: int | None, what: str, unit: str = "batch", seconds: float = 20.0
) -> Iterator[T]:
    """The same items with a progress bar, or with a plain line now and then where stderr is not a terminal.

    Args:
        items: what to go through.
        total: how many, where known.
        what: said in front of the bar.
        unit: of one item.
        seconds: between two plain lines.
    """
    from foundation.parallel.collective import rank

    if rank() != 0:  # one of the processes of a run is heard
        yield from items
        return
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=what, unit=unit, leave=False)
        return
    begun = said = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - said >= seconds:
            said = now
            of = f" of {total}" if total else ""
            to_stderr(f"{what}: {count}{of} ({unit}), {now - begun:.0f} s")
