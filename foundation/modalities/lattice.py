"""Places of the tokens of a grid. Needs no torch."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from foundation.errors import UserError

MOST_TOKENS = 2**20
"""Most tokens of one view: sides that are sensible each by itself can multiply to more than any memory holds."""


def lattice(counts: tuple[int, ...]) -> NDArray[np.int64]:
    """Coordinates of all cells of a grid.

    Args:
        counts: cells along each of the d axes.

    Returns:
        [N, d] int64, last axis fastest.

    Raises:
        UserError: more than :data:`MOST_TOKENS` cells.
    """
    if math.prod(counts) > MOST_TOKENS:
        raise UserError(
            f"a view of {' x '.join(map(str, counts))} tokens has more than {MOST_TOKENS:,}: use smaller views or "
            "larger patches"
        )
    axes = [np.arange(count, dtype=np.int64) for count in counts]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(counts))
