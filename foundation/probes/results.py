"""What every probe says in the end: an accuracy with its interval, a JSON file, a line for a person while it works."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

FORMAT = 1
"""Version of the JSON files; readers refuse what is newer."""


def bootstrap_interval(correct: NDArray[np.bool_], seed: int = 0, draws: int = 2_000) -> tuple[float, float]:
    """95 % interval of an accuracy: percentiles of resampled test sets (Efron 1979).

    Resampling n right-or-wrong answers with replacement is a binomial draw, so no answers need to be copied.

    Args:
        correct: [n] bool.
        seed: of the resampling.
        draws: number of resampled test sets.

    Returns:
        Lower and upper bound, in [0, 1]; (nan, nan) for an empty test set.
    """
    count = len(correct)
    if not count:
        return float("nan"), float("nan")
    accuracy = float(np.mean(correct))
    shares = np.random.default_rng(seed).binomial(count, accuracy, size=draws) / count
    low, high = np.percentile(shares, [2.5, 97.5])
    return float(low), float(high)


def versions() -> dict[str, str]:
    """Versions that a number depends on."""
    import torch

    import foundation

    return {
        "foundation": str(getattr(foundation, "__version__", "unknown")),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All readable probe results of a run, oldest first; broken files and newer formats are left out."""
    results = []
    for path in sorted(folder.glob("*.json"), key=lambda item: (item.stat().st_mtime, item.name)):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and content.get("format") == FORMAT:
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
            print(f"{what}: {count}{of} ({unit}), {now - begun:.0f} s", file=sys.stderr, flush=True)
