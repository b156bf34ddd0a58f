"""Stretches of time, through all rows (ATST-Frame, Li, Shao and Li 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foundation.errors import UserError
from foundation.masks.counted import Counted, Rows
from foundation.ranges import Side


@dataclass(frozen=True, kw_only=True)
class Config(Counted):
    """Stretches of time (the last coordinate), through all rows."""

    span: Side = 5
    """Length of a stretch in tokens. They do not overlap; the number masked is exact, up to a whole column."""

    def pattern(self, rows: Rows) -> NDArray[np.bool_]:
        """[rows, N] masks of whole columns in stretches of some length (one is shorter where it does not divide).

        The columns left over are dealt out between the stretches, so that none overlap and the count is met. All of it
        is then turned about as if time were a circle, so that every column is as likely as any other.
        """
        coordinates, wanted = rows.coordinates, rows.wanted
        if coordinates.ndim != 2:
            raise UserError(
                "masking: kind 'span' needs tokens on a grid with a time; use kind: block for groups of points"
            )
        times = coordinates[:, -1]
        columns = int(times.max()) + 1
        uniforms = rows.draws.uniform(f"{rows.stream}.spans", columns + 2)
        masks = np.zeros((len(wanted), columns), dtype=bool)
        for row, share in enumerate(wanted / len(times)):
            hidden = min(columns, round(float(share) * columns))
            stretches = -(-hidden // self.span)
            if not stretches:
                continue
            lengths = np.full(stretches, self.span)
            lengths[int(uniforms[row, -1] * stretches)] -= stretches * self.span - hidden
            turn = int(uniforms[row, -2] * columns)
            gaps = np.sort((uniforms[row, :stretches] * (columns - hidden + 1)).astype(np.int64))
            for begin, size in zip(gaps + np.cumsum(lengths) - lengths, lengths, strict=True):
                masks[row, (turn + begin + np.arange(size)) % columns] = True
        return masks[:, times]
