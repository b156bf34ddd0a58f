"""Copies of a view that are shifted by whole cells and mirrored, and features put back to where they belong.

The last two axes of a grid are its rows and columns; all that lies in front of them (frames) moves along. A copy
shifted by (a, b) shows in cell (i, j) what stands in cell (i + a, j + b); mirrored, in cell (i, columns - 1 - j).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CANDIDATES = 10
"""Random shifts for each copy that the spread ones are picked from (PH-Reg's released code)."""


@dataclass(frozen=True)
class Copy:
    """One shifted and perhaps mirrored copy of every row of a view.

    Attributes:
        rows: [R] int64, cells that the content moves up.
        columns: [R] int64, cells that it moves to the left.
        mirrored: [R] bool.
    """

    rows: Tensor
    columns: Tensor
    mirrored: Tensor

    def shown(self, values: Tensor, cell: tuple[int, int], fill: Tensor | float) -> Tensor:
        """Values of a view as this copy shows them.

        Args:
            values: [R, ..., height, width], for a view; of its grid with cells of (1, 1).
            cell: height and width of a cell.
            fill: in what the shift has vacated; broadcasts over the values of one row.
        """
        height, width = values.shape[-2:]
        own_rows, own_columns = (torch.arange(side, device=values.device) for side in (height, width))
        columns = torch.where(self.mirrored[:, None], width - 1 - own_columns, own_columns)
        places = own_rows + cell[0] * self.rows[:, None], columns + cell[1] * self.columns[:, None]
        moved, there = _gather(values, *places)
        return torch.where(there, moved, fill.to(values.dtype) if isinstance(fill, Tensor) else fill)

    def put_back(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the copy's cells where the cells come from.

        Args:
            features: [R, ..., D, rows, columns].

        Returns:
            The same shape, 0 in cells that the copy does not show; and which it shows, [R, 1, ..., rows, columns] bool.
        """
        height, width = features.shape[-2:]
        own_rows, own_columns = (torch.arange(side, device=features.device) for side in (height, width))
        columns = own_columns - self.columns[:, None]
        columns = torch.where(self.mirrored[:, None], width - 1 - columns, columns)
        moved, there = _gather(features, own_rows - self.rows[:, None], columns)
        return moved * there, there


def _gather(values: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Values [R, ..., H, W] at rows [R, H] and columns [R, W], and where these lie inside."""
    height, width = values.shape[-2:]
    between = [1] * (values.ndim - 3)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    rows = rows.clamp(0, height - 1).view(len(rows), *between, height, 1)
    columns = columns.clamp(0, width - 1).view(len(columns), *between, 1, width)
    moved = values.gather(-2, rows.expand(*values.shape)).gather(-1, columns.expand(*values.shape))
    return moved, inside.view(len(values), *between, height, width)


def limits(grid: tuple[int, int], shift: tuple[float, float]) -> tuple[int, int]:
    """Largest shift along rows and columns in cells, rounded to the nearest even number where it lies between two."""
    return round(shift[0] * grid[0]), round(shift[1] * grid[1])


def spread_out(candidates: NDArray[np.int64], first: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Farthest-point sampling: each further pick is the candidate farthest from all before it.

    Args:
        candidates: [R, C, 2].
        first: [R] number of the first pick.
        count: picks.

    Returns:
        [R, count] numbers of candidates; of equally far ones the first.
    """
    every = np.arange(len(candidates))
    chosen = np.empty((len(candidates), count), dtype=np.int64)
    distance = np.full(candidates.shape[:2], np.inf)
    chosen[:, 0] = first
    for number in range(1, count):
        last = candidates[every, chosen[:, number - 1]][:, None]
        distance = np.minimum(distance, np.square(candidates - last).sum(axis=-1))
        chosen[:, number] = distance.argmax(axis=1)
    return chosen


def shifts(uniform: NDArray[np.float64], first: NDArray[np.float64], most: tuple[int, int]) -> NDArray[np.int64]:
    """Shifts of copies, spread far apart over those that may be; the first is none.

    The first pick of the sampling is put to zero after it (as PH-Reg's released code does), so that the others may lie
    near it.

    Args:
        uniform: [R, CANDIDATES * copies, 2] numbers in [0, 1).
        first: [R] likewise, for the candidate that the sampling begins with.
        most: largest shift along rows and columns.

    Returns:
        [R, copies, 2].
    """
    reach = np.asarray(most)
    candidates = np.floor(uniform * (2 * reach + 1)).astype(np.int64) - reach
    number = candidates.shape[1]
    chosen = spread_out(candidates, np.floor(first * number).astype(np.int64), number // CANDIDATES)
    picked = np.take_along_axis(candidates, chosen[..., None], axis=1)
    picked[:, 0] = 0
    return picked
