"""The lines of ``metrics.jsonl``, read back: a step and figures, nothing nested and nothing endless."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from foundation import schema
from foundation.voice import plural

MOST_BYTES = 4 << 30
_LARGEST = 2**63 - 1


def line_of(text: bytes | str) -> dict[str, Any] | None:
    """One line: ``step`` (int, from 0 on) and figures (None for what was not finite), or text. None if damaged."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or type(line.get("step")) is not int or not 0 <= line["step"] <= _LARGEST:
        return None
    for name, value in line.items():
        kind = type(value)
        good = value is None or (kind is float and math.isfinite(value)) or (kind is int and abs(value) <= _LARGEST)
        good = good or kind is str
        if not good or not name.isprintable():
            return None
    return line


def read_lines(path: Path, last_bytes: int | None = None) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of a metrics file, and how many are damaged.

    A last line without an end is what a kill leaves, and no damage.

    Args:
        path: of the file; one that is not there has no lines.
        last_bytes: only the lines that lie whole within so many bytes before the end.

    Raises:
        FormError: it is no regular file, cannot be read or is too large.
    """
    try:
        texts = _texts(path, last_bytes)
    except FileNotFoundError:
        return [], 0
    ended, rest = texts[:-1], texts[-1]
    found = [line_of(text) for text in ended]
    lines = [line for line in found if line is not None]
    unended = line_of(rest) if rest else None
    return lines + ([unended] if unended is not None else []), len(found) - len(lines)


def _texts(path: Path, last_bytes: int | None) -> list[bytes]:
    if last_bytes is None:
        return schema.read_bytes(path, MOST_BYTES).split(b"\n")
    with schema.opened(path) as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - last_bytes))
        texts = file.read(last_bytes).split(b"\n")
    return texts[1:] if length > last_bytes and len(texts) > 1 else texts


def said_of(damaged: int, path: Path) -> Iterable[str]:
    """A line for a person about damaged lines, where there are any."""
    if damaged:
        yield f"{path.name}: {plural(damaged, 'damaged line')} left out"


def number_or_none(value: Any) -> float | None:
    """A figure of a line, None where it is text or was not finite."""
    return value if is_number(value) else None


def is_number(value: Any) -> bool:
    """A finite number that a float can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
