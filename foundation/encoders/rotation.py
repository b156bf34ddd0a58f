"""Turning queries and keys by the angles of their places."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rotation:
    """Tables of one grid: ``sin`` and ``cos``, each [prefix + N, head_width]; the prefix is not rotated.

    Where rows hold different tokens of the grid, [R, tokens, head_width].
    """

    sin: Tensor
    cos: Tensor

    def at(self, places: Tensor) -> Rotation:
        """Of some tokens of each row, [R, tokens] int64 places in a table that all rows share."""
        return Rotation(self.sin[places], self.cos[places])

    def of_rows(self, rows: Tensor) -> Rotation:
        """Of some rows [K] int64; the same where all rows share a table."""
        if self.sin.ndim == 2:
            return self
        return Rotation(self.sin.index_select(0, rows), self.cos.index_select(0, rows))

    def __call__(self, inputs: Tensor) -> Tensor:
        """Rotate.

        Args:
            inputs: [R, prefix + N, ..., head_width] queries or keys.

        Returns:
            the same shape and dtype; computed in the dtype of the tables.
        """
        shape = (*self.sin.shape[:-1], *[1] * (inputs.ndim - 3), self.sin.shape[-1])
        sin, cos = self.sin.view(shape), self.cos.view(shape)
        x = inputs.to(sin.dtype)
        first, second = x.chunk(2, dim=-1)
        return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(inputs.dtype)
