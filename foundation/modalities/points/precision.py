"""What keeps a cloud's detail on its way to float32: an origin of its own, and colours as shares of a type's range.

Views, tokens and models count in float32, which has 24 bits: a projected coordinate of five million metres moves in
steps of half a metre there. So a cloud that lies far from zero is moved to an origin of its own while its numbers still
have the precision of the file, in every format alike; one that lies near zero keeps its numbers to the bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundation.errors import Note

FAR = 16.0
"""A cloud is far from zero when the middle of its points is further away than so many times its extent."""
FEWEST_STEPS = 100_000
"""Steps over a cloud's extent below which the type in which a far cloud is stored has lost its detail."""
_LOOKED_AT = 1024  # points from which middle and extent are taken
_TRIMMED = 50  # one in so many points at either end does not count for the extent: a stray return at zero


@dataclass(frozen=True)
class Table:
    """Points as a file has them.

    Attributes:
        values: [N, 3 + F] in a type that loses nothing.
        stored: type in which the file keeps the coordinates.
        notes: what is worth knowing about the other numbers.
    """

    values: NDArray[Any]
    stored: np.dtype[Any]
    notes: tuple[Note, ...] = ()


def settled(table: Table) -> tuple[NDArray[np.float32], NDArray[np.float64], tuple[Note, ...]]:
    """A cloud in float32 without loss of detail.

    Args:
        table: as the file has it.

    Returns:
        float32 [N, 3 + F], relative to the origin; the origin, float64 [3], in the file's unit, 0 for a cloud near
        zero; and the table's notes, with one more where the file itself had lost the detail.
    """
    values = table.values
    middle, extent = _place(values)
    furthest = float(np.abs(middle).max())
    with np.errstate(over="ignore", invalid="ignore"):
        if not furthest > FAR * extent or not extent > 0:
            return np.ascontiguousarray(values, dtype=np.float32), np.zeros(3), table.notes
        # A whole number of powers of two: subtracting it rounds nothing.
        unit = 2.0 ** math.ceil(math.log2(extent))
        origin = np.round(middle / unit) * unit
        moved = np.empty(values.shape, np.float32)
        moved[:, 3:] = values[:, 3:]
        moved[:, :3] = values[:, :3].astype(np.float64) - origin
    return moved, origin, (*table.notes, *_lost(table.stored, furthest, extent))


def _place(values: NDArray[Any]) -> tuple[NDArray[np.float64], float]:
    """Middle of the points, and the longest side of the box around all but the outermost; 0 without a finite one."""
    some = values[:: max(1, len(values) // _LOOKED_AT), :3].astype(np.float64)
    some = some[np.isfinite(some).all(axis=1)]
    if not len(some):
        return np.zeros(3), 0.0
    some.sort(axis=0)
    trimmed = len(some) // _TRIMMED
    extent = float((some[len(some) - 1 - trimmed] - some[trimmed]).max()) or float((some[-1] - some[0]).max())
    return some[len(some) // 2], extent if math.isfinite(extent) else 0.0


def _lost(stored: np.dtype[Any], furthest: float, extent: float) -> tuple[Note, ...]:
    if stored.kind != "f" or stored.itemsize > 4:
        return ()
    step = float(np.spacing(np.array(furthest, stored)))
    if not extent < FEWEST_STEPS * step:
        return ()
    return (
        Note(
            "range",
            f"coordinates near {furthest:.9g} are stored as {stored.name}, in steps of {step:.3g} there: about "
            f"{max(1, round(extent / step))} places over the cloud's extent of {extent:.3g}; write them as float64, or "
            "subtract an origin before they are written",
        ),
    )


def shares(values: NDArray[Any], stored: np.dtype[Any], what: str) -> tuple[NDArray[np.float64], tuple[Note, ...]]:
    """Colours as shares, 0 to 1, whatever type they are stored in.

    Whole numbers are divided by the largest of their type. Where that throws the range away (none above 255 in a wider
    type), and for fractions above 1, they count as bytes, or as 16 bits where one is above 255, which a note says.
    Fractions with negative ones among them have been normalised already and are kept.

    Args:
        values: any shape.
        stored: type in the file.
        what: they are, for the note.

    Returns:
        float64 of the same shape, and notes.
    """
    numbers = np.asarray(values, np.float64)
    largest = float(np.max(numbers, initial=0.0, where=np.isfinite(numbers)))
    if stored.kind in "iu":
        full = float(np.iinfo(stored).max)
        if stored.itemsize == 1 or largest > 255 or largest <= 0:
            return numbers / full, ()
    elif largest <= 1 or bool((numbers < 0).any()):
        return numbers, ()
    taken = 255.0 if largest <= 255 else 65535.0
    if largest > taken:
        return numbers, (Note("range", f"{what} of up to {largest:.6g}, stored as {stored.name}: kept as they are"),)
    text = f"{what} stored as {stored.name}, none above {largest:.6g}: taken as shares of {taken:.0f}"
    return numbers / taken, (Note("range", text),)


def strengths(values: NDArray[Any], stored: np.dtype[Any]) -> tuple[NDArray[np.float64], tuple[Note, ...]]:
    """Intensities: whole numbers over the largest of their type, so that tiles of one scan keep one scale; a note where
    that leaves little of the range. Fractions have no scale of their own (scanners give reflectance in many units) and
    are kept.

    Args:
        values: [N].
        stored: type in the file.
    """
    numbers = np.asarray(values, np.float64)
    if stored.kind not in "iu":
        return numbers, ()
    full, largest = float(np.iinfo(stored).max), float(numbers.max(initial=0.0))
    if stored.itemsize == 1 or largest > 255 or largest <= 0:
        return numbers / full, ()
    text = (
        f"intensities stored as {stored.name}, none above {largest:.6g}: over {full:.0f} little of their range is left"
    )
    return numbers / full, (Note("range", text),)
