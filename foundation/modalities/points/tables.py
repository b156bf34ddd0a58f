"""What readers of every point format share: limits, errors, columns by name, numbers out of text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundation.errors import Note
from foundation.modalities.points.precision import Table, shares, strengths

COLUMNS = 64
"""Numbers of a point at most; a file that claims more is no point cloud."""
DIGITS = 16  # counts with more are nonsense, and Python refuses to read thousands of digits
COLOURS = ("red", "green", "blue")
NAMES = ("x", "y", "z", "nx", "ny", "nz", *COLOURS, "intensity")
"""Numbers of a point that files name, in the order in which they are given on."""
ALIASES = {"r": "red", "g": "green", "b": "blue", "i": "intensity", "scalar_intensity": "intensity"}
ALIASES |= {f"normal{line}{axis}": f"n{axis}" for axis in "xyz" for line in ("_", "")}
ALIASES |= {f"diffuse_{colour}": colour for colour in COLOURS}


class PointError(ValueError):
    """What is wrong with the bytes, as a reason of :data:`foundation.errors.REASONS` and a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Limits:
    """How much a reader may take.

    Attributes:
        points: points (or vertices, faces) at most.
        surface: points drawn from the surface of a mesh.
    """

    points: int
    surface: int


def bounded(count: int, limits: Limits, what: str = "points") -> None:
    """Refuse a number of points that is more than the limit, or below 0."""
    if count > limits.points:
        raise PointError("too_large", f"{count} {what} are more than max_points = {limits.points}")
    if count < 0:
        raise PointError("decode", f"the file says that it holds {count} {what}")


def named(columns: Mapping[str, NDArray[Any]], stored: Mapping[str, np.dtype[Any]], what: str) -> Table:
    """A table of the numbers that are known, in the order of :data:`NAMES`; colours and intensities become shares.

    Args:
        columns: [N] by name.
        stored: type of each in the file.
        what: has them, for the message.

    Raises:
        PointError: reason ``missing``: no x, y or z.
    """
    called = {ALIASES.get(name.lower(), name.lower()): name for name in reversed(list(columns))}
    if not {"x", "y", "z"} <= set(called):
        raise PointError("missing", f"{what} without x, y or z (they have {', '.join(columns) or 'nothing'})")
    known = {name: np.asarray(columns[called[name]], np.float64) for name in NAMES if name in called}
    types = {name: stored[called[name]] for name in known}
    notes: tuple[Note, ...] = ()
    if coloured := [name for name in COLOURS if name in known]:
        scaled, notes = shares(np.stack([known[name] for name in coloured]), types[coloured[0]], "colours")
        known |= dict(zip(coloured, scaled, strict=True))
    if "intensity" in known:
        known["intensity"], more = strengths(known["intensity"], types["intensity"])
        notes += more
    kind = min((types[axis] for axis in "xyz"), key=lambda kind: (kind.kind != "f", kind.itemsize))
    return Table(np.stack(list(known.values()), axis=1), kind, notes)


def text_rows(data: bytes, count: int, columns: int) -> NDArray[np.float64]:
    """The first ``count`` lines of numbers, [count, columns]."""
    lines = data.split(b"\n", count)[:count]
    try:
        numbers = parse_numbers(b"\n".join(lines))
    except PointError:
        if data.count(b"\n") >= count:
            raise
        numbers = parse_numbers(b"\n".join(lines[:-1]))  # the last line has no end: what cuts the file off, cuts it
    if len(numbers) != count * columns:
        raise PointError("truncated", f"{len(numbers)} numbers, but {count} lines of {columns} are announced")
    return numbers.reshape(count, columns)


def parse_numbers(text: bytes) -> NDArray[np.float64]:
    """Numbers with blanks between them."""
    try:
        return np.array(text.split(), dtype=np.float64)
    except ValueError as error:
        raise PointError("decode", f"not a number among the coordinates: {str(error)[:80]}") from None
