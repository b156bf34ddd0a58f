"""Parts of a large matrix that are handled one after the other, so that what is computed of each stays in cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from foundation import planned

ELEMENTS = {"cpu": 2**17}
"""Elements of a part, by kind of device: on a CPU half a mebibyte of float32."""
ELEMENTS_ELSEWHERE = 2**26
"""On a GPU a part should only bound the temporary memory (256 MiB)."""
PLANNED = 2**21
"""Elements of a part while a step is only planned, at least: some mebibytes."""


def elements(device: torch.device) -> int:
    """Elements that one part should have at most; in a plan some more, so that it has fewer parts to follow."""
    if planned.now() is not None:
        return max(PLANNED, ELEMENTS.get(planned.kind(device), ELEMENTS_ELSEWHERE))
    return ELEMENTS.get(planned.kind(device), ELEMENTS_ELSEWHERE)


class Rows(Protocol):
    """A matrix [R, K] that is asked for some rows at a time: a tensor, or what computes them as they are asked for."""

    @property
    def shape(self) -> Sequence[int]: ...

    @property
    def device(self) -> torch.device: ...

    def __getitem__(self, rows: slice, /) -> Tensor: ...


def row_parts(matrix: Rows) -> Iterator[slice]:
    """Slices of the rows of a matrix [R, K], at least one row each."""
    rows, width = matrix.shape
    return _parts(rows, elements(matrix.device) // max(1, width))


def column_parts(matrix: Tensor) -> Iterator[slice]:
    """Slices of the columns of a matrix [R, K]; what is computed of each column is the same whatever their size."""
    rows, width = matrix.shape
    return _parts(width, max(64, elements(matrix.device) // max(1, rows) // 64 * 64))


def column_sums(matrix: Tensor) -> Tensor:
    """Sums [K] of a matrix [R, K] over its rows in float32; the same numbers whatever the size of the parts."""
    if matrix.dtype == torch.float32 or planned.kind(matrix.device) != "cpu":
        return matrix.sum(dim=0, dtype=torch.float32)
    # In one call a CPU makes a float32 copy of the whole matrix first.
    sums = matrix.new_empty(matrix.shape[1], dtype=torch.float32)
    for part in column_parts(matrix):
        torch.sum(matrix[:, part].float(), dim=0, out=sums[part])
    return sums


def _parts(length: int, step: int) -> Iterator[slice]:
    step = max(1, step)
    return (slice(start, start + step) for start in range(0, length, step))
