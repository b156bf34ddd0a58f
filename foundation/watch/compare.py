"""Several runs side by side: the settings in which they differ, and their figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from foundation.printable import printable
from foundation.redact import redact
from foundation.report import names
from foundation.watch.board import WatchedRun

MOST_SETTINGS = 200
_LONGEST = 200  # characters of a value
_NO_SETTINGS = ("about", "name")


def compare(found: Sequence[WatchedRun]) -> dict[str, Any]:
    """The comparison of some runs as JSON values, all text printable.

    Args:
        found: the runs; the lock of their board is held.

    Returns:
        ``runs``: their ids; ``settings`` and ``figures``: a name and a text for each run (empty where it has none).
        ``more``: settings that differ and are left out.
    """
    flat = [_flat({key: value for key, value in run.plain.items() if key not in _NO_SETTINGS}) for run in found]
    keys = sorted({key for values in flat for key in values})
    rows = [(key, [values.get(key, "") for values in flat]) for key in keys]
    differing = [[_cut(key), *map(_cut, cells)] for key, cells in rows if len(set(cells)) > 1]
    return {
        "runs": [run.id for run in found],
        "settings": differing[:MOST_SETTINGS],
        "more": max(0, len(differing) - MOST_SETTINGS),
        "figures": _figures(found),
    }


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Settings by dotted key; what a list holds counts by its name (``objectives.dino.weight``), else as one value."""
    found: dict[str, str] = {}
    for key, value in values.items():
        inner = _by_name(value) if isinstance(value, list) else value
        if isinstance(inner, Mapping) and inner:
            found |= _flat(inner, f"{before}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            found[f"{before}{key}"] = text
    return found


def _by_name(items: list[Any]) -> dict[str, Any] | None:
    """Members of a list by their names, a second one of a name as ``dino-2``; None where they have none."""
    found: dict[str, Any] = {}
    for item in items:
        if not isinstance(item, Mapping) or "name" not in item:
            return None
        number = 1 + sum(isinstance(other, Mapping) and other["name"] == item["name"] for other in found.values())
        found[f"{item['name']}-{number}" if number > 1 else str(item["name"])] = item
    return found


def _cut(text: str) -> str:
    shown = printable(redact(text))
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]} ..."


def _figures(found: Sequence[WatchedRun]) -> list[list[str]]:
    states = [run.state for run in found]
    rows = [
        ["state", *("unreadable" if state is None else state.state for state in states)],
        ["step", *("" if state is None else f"{state.step:,}" for state in states)],
        ["loss", *(_number(None if state is None else state.loss) for state in states)],
        ["samples per second", *(_number(None if state is None else state.samples_per_second) for state in states)],
    ]
    for key in dict.fromkeys(key for run in found for key in run.tail.series if key.startswith("probe/")):
        rows.append([printable(f"{names.figure(key).title}, while training"), *(_best(run, key) for run in found)])
    for key in dict.fromkeys(key for run in found for key in run.results if not key.endswith(("/n", "/k"))):
        kind = names.figure(f"probe/{key.replace('/', '_')}")
        cells = [_share(run.results.get(key)) if kind.percent else _number(run.results.get(key)) for run in found]
        rows.append([printable(f"{kind.title}, probe result"), *cells])
    return [row for row in rows if any(row[1:])]


def _best(run: WatchedRun, key: str) -> str:
    """Last value of a probe, with its best."""
    curve = run.tail.series.get(key)
    if curve is None or curve.last is None or curve.best is None:
        return ""
    percent = names.figure(key).percent
    last, best = map(_share if percent else _number, (curve.last, curve.best[1]))
    return last if last == best else f"{last} (best {best}, step {curve.best[0]:,})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"
