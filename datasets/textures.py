"""Drawn textures: which of twenty-four patterns is this, whatever its colours, its turn, its distance and the light?

A sample is a window on an endless pattern (stripes, bricks, rings, scattered crosses, ...) from a random place, turned by
any angle, nearer or farther, bent a little, in two random colours, under light that falls off to one side, with noise of
the camera. The class is the pattern. The views of the recipe imitate exactly those changes, so an encoder can learn
without labels what stays the same under them; a simple feature ignores only what it was made to ignore.
"""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from foundation import counter
from foundation.errors import UserError
from foundation.ranges import CountOrNone, Seed, Side, argument

if TYPE_CHECKING:
    from numpy.typing import NDArray

Plane: TypeAlias = "NDArray[np.float32]"

DESCRIPTION = "draw textures in random colours and light as shards"
CARD = {
    "title": "Textures",
    "licence": "generated here; no rights reserved",
    "source": "this program",
    "citation": "",
    "modality": "image",
    "splits": ["train", "test"],
    "layout": "jpg, cls",
    "size": "24 patterns; 4,000 training and 960 test windows; about 18 MB",
}
_CELLS = 16  # the scattered things repeat after so many cells
_NUMBERS = 24 + 4 * _CELLS * _CELLS  # random numbers of one window
_PERIODS = 4.0  # periods of a pattern across a window of mean distance


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the user can choose."""
    add = parser.add_argument
    add("--size", type=argument(Side), default=48, help="width and height of a window, pixels (default: %(default)s)")
    add("--train", type=argument(CountOrNone), default=4000, help="training windows (default: %(default)s)")
    add("--test", type=argument(CountOrNone), default=960, help="test windows (default: %(default)s)")
    add("--seed", type=argument(Seed), default=0, help="of places, colours and light (default: %(default)s)")


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the patterns, by class number."""
    return list(PATTERNS)


def samples(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """Windows of both splits.

    Raises:
        UserError: an option cannot work.
    """
    if arguments.size < 8 or min(arguments.train, arguments.test) < 1:
        raise UserError("textures: --size must be at least 8, --train and --test at least 1")
    return {split: _Split(arguments, split, getattr(arguments, split)) for split in ("train", "test")}


class _Split:
    """Sized and re-readable, so that a progress bar knows the end."""

    def __init__(self, arguments: argparse.Namespace, split: str, count: int) -> None:
        self.arguments, self.split, self.count = arguments, split, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        from PIL import Image

        patterns = list(PATTERNS.values())
        for number in range(self.count):
            random = counter.uniform(self.arguments.seed, 0, number, f"textures.{self.split}", _NUMBERS)[0]
            pixels = window(patterns[number % len(patterns)], self.arguments.size, random)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
            label = number % len(patterns)
            yield {"__key__": f"{self.split}-{number:05d}", "jpg": buffer.getvalue(), "cls": str(label).encode()}


def window(pattern: Pattern, size: int, random: NDArray[np.float64]) -> NDArray[np.uint8]:
    """One picture of a pattern, [size, size, 3].

    Args:
        pattern: one of :data:`PATTERNS`.
        size: width and height, pixels.
        random: numbers in [0, 1).
    """
    r, cells = random[:24], random[24:].reshape(4, _CELLS, _CELLS).astype(np.float32)
    fine = 2 * size  # drawn twice as fine, then averaged: no aliasing
    line = ((np.arange(fine, dtype=np.float32) + 0.5) / fine - 0.5) * np.float32(_PERIODS * 1.35 ** (2 * r[0] - 1))
    angle = 2 * math.pi * r[1]
    across, down = line[None, :], line[:, None]
    x = math.cos(angle) * across - math.sin(angle) * down
    y = math.sin(angle) * across + math.cos(angle) * down
    bend = 0.12  # periods
    x, y = (
        x + bend * np.sin(1.1 * y + 2 * math.pi * r[2]) + 16 * r[3],
        y + bend * np.sin(1.1 * x + 2 * math.pi * r[4]) + 16 * r[5],
    )
    share = pattern(x.astype(np.float32), y.astype(np.float32), cells)
    share = share.reshape(size, 2, size, 2).mean((1, 3))
    # Two greys that differ by a fifth of the range at least, either of them the brighter one.
    low = 0.8 * r[6]
    high = low + 0.2 + (0.8 - low) * r[7]
    first, second = (low, high) if r[8] < 0.5 else (high, low)
    picture = 255 * (first + share[:, :, None] * (second - first))
    coarse = ((np.arange(size) + 0.5) / size - 0.5)[:, None]
    picture *= 1 + 0.8 * (r[12] - 0.5) * coarse[:, :, None] + 0.8 * (r[13] - 0.5) * coarse.T[:, :, None]
    seed = int(r[14] * 2**32)
    noise = np.random.Generator(np.random.Philox(seed)).standard_normal((size, size, 1), np.float32)
    grey = np.clip(picture + 10 * r[15] * noise, 0, 255).round().astype(np.uint8)
    return np.broadcast_to(grey, (size, size, 3)).copy()


# Patterns: from coordinates in periods [S, S] and random numbers of cells [4, cells, cells] to shares of the second
# colour, [S, S] in [0, 1].

Pattern: TypeAlias = Callable[[Plane, Plane, Plane], Plane]


def _wave(x: Plane) -> Plane:
    """Rises and falls between 0 and 1 with period 1."""
    return np.abs(2 * (x - np.floor(x)) - 1)


def _below(x: Plane, limit: float) -> Plane:
    return (x < limit).astype(np.float32)


def _centred(x: Plane) -> Plane:
    """Where in its period, in [-0.5, 0.5)."""
    return x - np.floor(x) - np.float32(0.5)


def _scattered(shape: Callable[[Plane, Plane], Plane], size: float = 1.0) -> Pattern:
    """Things in cells, each moved and turned by chance."""

    def pattern(x: Plane, y: Plane, cells: Plane) -> Plane:
        column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
        found = np.zeros_like(x)
        for a in (-1, 0, 1):
            for b in (-1, 0, 1):
                i, j = (row + a) % _CELLS, (column + b) % _CELLS
                u = x - (column + b) - (0.2 + 0.6 * cells[0, i, j])
                v = y - (row + a) - (0.2 + 0.6 * cells[1, i, j])
                turn = (2 * math.pi) * cells[2, i, j]
                cos, sin = np.cos(turn), np.sin(turn)
                np.maximum(found, shape((cos * u - sin * v) / size, (sin * u + cos * v) / size), out=found)
        return found

    return pattern


def _nearest(x: Plane, y: Plane, cells: Plane) -> tuple[Plane, Plane, Plane]:
    """Distances to the nearest and the next of points scattered in cells, and a number of the nearest (Worley 1996)."""
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    first, second, number = np.full_like(x, 9.0), np.full_like(x, 9.0), np.zeros_like(x)
    for a in (-1, 0, 1):
        for b in (-1, 0, 1):
            i, j = (row + a) % _CELLS, (column + b) % _CELLS
            distance = np.hypot(x - (column + b) - cells[0, i, j], y - (row + a) - cells[1, i, j])
            nearer = distance < first
            second = np.where(nearer, first, np.minimum(second, distance))
            number = np.where(nearer, cells[3, i, j], number)
            first = np.where(nearer, distance, first)
    return first, second, number


def _smooth(x: Plane, y: Plane, cells: Plane) -> Plane:
    """Value noise: random numbers at the corners of cells, joined smoothly (Perlin 1985)."""
    column, row = np.floor(x), np.floor(y)
    u, v = x - column, y - row
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    i, j = row.astype(np.int64), column.astype(np.int64)
    corner = [[cells[0, (i + a) % _CELLS, (j + b) % _CELLS] for b in (0, 1)] for a in (0, 1)]
    return (corner[0][0] * (1 - u) + corner[0][1] * u) * (1 - v) + (corner[1][0] * (1 - u) + corner[1][1] * u) * v


def _bricks(x: Plane, y: Plane, cells: Plane) -> Plane:
    row = np.floor(2 * y)
    joint = np.minimum(0.5 - np.abs(_centred(2 * y)), 2 * (0.5 - np.abs(_centred(x + 0.5 * (row % 2)))))
    return _below(joint, 0.14)


def _weave(x: Plane, y: Plane, cells: Plane) -> Plane:
    over = (np.floor(x) + np.floor(y)) % 2 == 0
    return _below(_wave(np.where(over, 3 * x, 3 * y)), 0.5)


def _hexagons(x: Plane, y: Plane) -> tuple[Plane, Plane]:
    """Where from the centre of the nearest point of a triangular lattice."""
    tall = math.sqrt(3)
    found = [(_centred(x + 0.5 * shift), tall * _centred(y / tall + 0.5 * shift)) for shift in (0, 1)]
    nearer = np.hypot(*found[0]) < np.hypot(*found[1])
    return np.where(nearer, found[0][0], found[1][0]), np.where(nearer, found[0][1], found[1][1])


def _honeycomb(x: Plane, y: Plane, cells: Plane) -> Plane:
    u, v = (np.abs(part) for part in _hexagons(x, y))
    return 1 - _below(np.maximum(u, 0.5 * u + 0.866 * v), 0.41)


def _hatching(x: Plane, y: Plane, cells: Plane) -> Plane:
    _, _, number = _nearest(0.8 * x, 0.8 * y, cells)
    turn = math.pi * number
    return _below(_wave(2.5 * (np.cos(turn) * x + np.sin(turn) * y)), 0.45)


PATTERNS: dict[str, Pattern] = {
    "stripes": lambda x, y, c: _below(_wave(1.5 * x), 0.5),
    "lines": lambda x, y, c: _below(_wave(1.5 * x), 0.2),
    "zigzag": lambda x, y, c: _below(_wave(1.5 * x + 0.7 * _wave(1.2 * y)), 0.5),
    "waves": lambda x, y, c: _below(_wave(1.5 * x + 0.25 * np.sin(6 * y)), 0.5),
    "checks": lambda x, y, c: _below(np.sin(2 * math.pi * x) * np.sin(2 * math.pi * y), 0.0),
    "grid": lambda x, y, c: _below(np.minimum(_wave(1.4 * x), _wave(1.4 * y)), 0.2),
    "bricks": _bricks,
    "weave": _weave,
    "dots in squares": lambda x, y, c: _below(np.hypot(_centred(1.3 * x), _centred(1.3 * y)), 0.3),
    "dots in triangles": lambda x, y, c: _below(np.hypot(*_hexagons(1.2 * x, 1.2 * y)), 0.28),
    "rings": lambda x, y, c: _below(np.abs(np.hypot(_centred(x), _centred(y)) - 0.32), 0.08),
    "pluses": lambda x, y, c: _below(
        np.minimum(np.abs(_centred(x)), np.abs(_centred(y)))
        + 9 * (np.maximum(np.abs(_centred(x)), np.abs(_centred(y))) > 0.36),
        0.1,
    ),
    "honeycomb": _honeycomb,
    "triangles": lambda x, y, c: (
        (np.floor(1.2 * x) + np.floor(0.6 * x + 1.04 * y) + np.floor(0.6 * x - 1.04 * y)) % 2
    ).astype(np.float32),
    "scattered discs": _scattered(lambda u, v: _below(np.hypot(u, v), 0.3)),
    "scattered rings": _scattered(lambda u, v: _below(np.abs(np.hypot(u, v) - 0.32), 0.08)),
    "scattered sticks": _scattered(lambda u, v: _below(np.maximum(np.abs(u) / 5, np.abs(v)), 0.09)),
    "scattered crosses": _scattered(
        lambda u, v: _below(np.minimum(np.abs(u), np.abs(v)) + 9 * (np.maximum(np.abs(u), np.abs(v)) > 0.4), 0.09)
    ),
    "scattered triangles": _scattered(lambda u, v: _below(np.maximum(0.866 * np.abs(u) + 0.5 * v, -v), 0.25)),
    "scattered squares": _scattered(lambda u, v: _below(np.maximum(np.abs(u), np.abs(v)), 0.27)),
    "cracks": lambda x, y, c: (lambda near: _below(near[1] - near[0], 0.13))(_nearest(1.2 * x, 1.2 * y, c)),
    "mosaic": lambda x, y, c: _nearest(1.2 * x, 1.2 * y, c)[2],
    "clouds": lambda x, y, c: _smooth(1.6 * x, 1.6 * y, c),
    "hatching": _hatching,
}
"""Patterns by name, in the order of the class numbers."""
