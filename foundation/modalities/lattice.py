"""Coordinates of the tokens of a grid."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from foundation.errors import UserError

MOST_TOKENS = 2**20
"""Most tokens of one view: sides that are sensible each by itself can multiply to more than any memory holds."""


MOST_NUMBERS = 2**28
"""Most numbers of one view, 1 GiB of float32: 64 frames of 1,024 x 1,024 pixels are three quarters of it."""


def check_views(roles: Mapping[str, tuple[int, tuple[int, ...]]]) -> None:
    """Refuse views that no memory holds.

    Args:
        roles: of a modality's views: by name, how many of a sample and the shape of one.

    Raises:
        UserError: naming the first of more than :data:`MOST_NUMBERS` numbers.
    """
    for name, (_, shape) in roles.items():
        if math.prod(shape) > MOST_NUMBERS:
            size = " x ".join(map(str, shape))
            raise UserError(f"view {name!r} of {size} has more than {MOST_NUMBERS:,} numbers: use smaller views")


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
