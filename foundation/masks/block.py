"""Blocks: unions of random rectangles; where tokens lie on no grid, the tokens nearest to a random one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundation import counter
from foundation.errors import UserError
from foundation.masks.counted import Counted, Rows, top_up
from foundation.ranges import Count, PositiveShare

_ATTEMPTS = 10  # rectangles tried in a row without success before a mask counts as full (BEiT, DINOv2)
_FIRST_DRAW = 24  # attempts whose numbers are drawn at once; few masks need more


@dataclass(frozen=True, kw_only=True)
class Config(Counted):
    """Unions of random rectangles; for groups of points, which lie on no grid, the ones nearest to a random one."""

    by_coordinates = True

    min_patches: Count = 4
    """Smallest area of a rectangle in tokens (iBOT: ``(min(rows, columns) // 3) ** 2``)."""
    max_share: PositiveShare = 0.5
    """Largest area of a rectangle as a share of the grid (iBOT: 1)."""
    aspect: PositiveShare = 0.3
    """Rectangles have height / width log-uniform in [aspect, 1 / aspect]."""
    exact: bool = False
    """Add single tokens until the wanted count is met (DINOv3); rectangles alone sometimes end a little below. Mode
    ``drop`` does so anyway."""

    def pattern(self, rows: Rows) -> NDArray[np.bool_]:
        """See :meth:`Counted.pattern`."""
        coordinates, wanted, draws, stream = rows.coordinates, rows.wanted, rows.draws, rows.stream
        if coordinates.ndim == 3:
            return _nearest(coordinates, wanted, draws, stream)
        if coordinates.shape[1] != 2:
            raise UserError(
                f"masking: kind 'block' needs tokens on a grid of rows and columns, these have "
                f"{coordinates.shape[1]} coordinates: use kind: random, or tube: true for a grid that has times too"
            )
        height, width = (int(c) + 1 for c in coordinates.max(axis=0))
        first = draws.uniform(f"{stream}.0", 4 * _FIRST_DRAW)
        shape = _Grid(height, width)
        grids = [rectangles(self, shape, int(n), _numbers(draws, stream, i, first[i])) for i, n in enumerate(wanted)]
        size = (height * width + 7) // 8
        packed = np.frombuffer(b"".join(grid.to_bytes(size, "little") for grid in grids), dtype=np.uint8)
        cells = np.unpackbits(packed.reshape(len(grids), size), axis=1, bitorder="little")
        masks = cells[:, coordinates[:, 0] * width + coordinates[:, 1]].astype(bool)
        return top_up(masks, wanted, draws, stream) if self.exact or self.mode == "drop" else masks


def _numbers(draws: counter.Draws, stream: str, row: int, first: NDArray[np.float64]) -> Iterator[float]:
    """Endless uniform numbers of one row: the first ones are given, further ones are drawn when needed."""
    yield from first.tolist()
    part, own = 1, draws.take(np.array([row]))
    while True:
        yield from own.uniform(f"{stream}.{part}", 4 * _FIRST_DRAW)[0].tolist()
        part += 1


class _Grid:
    """Size of a grid, and for each h a column of h cells as bits."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.columns = [0]
        for row in range(height):
            self.columns.append(self.columns[-1] | 1 << (row * width))


def rectangle(config: Config, shape: _Grid, missing: int, numbers: Iterator[float]) -> tuple[int, int, int, int] | None:
    """One try: (top, left, height, width), or None when it does not fit into the grid. Always takes four numbers."""
    area = config.min_patches + next(numbers) * (
        min(missing, config.max_share * shape.width * shape.height) - config.min_patches
    )
    ratio = math.exp((1.0 - 2.0 * next(numbers)) * math.log(config.aspect))
    top, left = next(numbers), next(numbers)
    height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if not (0 < height < shape.height and 0 < width < shape.width):
        return None
    return int(top * (shape.height - height + 1)), int(left * (shape.width - width + 1)), height, width


def rectangles(config: Config, shape: _Grid, wanted: int, numbers: Iterator[float]) -> int:
    """Union of random rectangles, cell (r, c) as bit ``r * width + c`` of an integer.

    The rule of BEiT (Bao et al. 2022, algorithm 1) as DINOv2 has it: area uniform between ``min_patches`` and what is
    still missing, up to ten tries until a rectangle adds something and not too much. Integers of some hundred bits
    make a try a few operations, where arrays would need many microseconds.
    """
    grid, missing, failures = 0, wanted, 0
    while missing > 0 and failures < _ATTEMPTS:
        failures += 1
        found = rectangle(config, shape, missing, numbers)
        if found is None:
            continue
        top, left, height, width = found
        union = grid | ((shape.columns[height] * ((1 << width) - 1)) << (top * shape.width + left))
        new = union.bit_count() - wanted + missing
        if 0 < new <= missing:
            grid, missing, failures = union, missing - new, 0
    return grid


def _nearest(
    coordinates: NDArray[Any], wanted: NDArray[np.int64], draws: counter.Draws, stream: str
) -> NDArray[np.bool_]:
    """[rows, N] masks of the wanted number of tokens nearest to a random one (Point-BERT's blocks); [rows, N, d]."""
    rows = np.arange(len(wanted))
    middle = (draws.uniform(f"{stream}.middle", 1)[:, 0] * coordinates.shape[1]).astype(np.int64)
    offsets = coordinates - coordinates[rows, middle][:, None]
    order = np.argsort((offsets**2).sum(-1), axis=1, kind="stable")
    masks = np.zeros(order.shape, dtype=bool)
    np.put_along_axis(masks, order, np.arange(order.shape[1])[None] < wanted[:, None], axis=1)
    return masks
