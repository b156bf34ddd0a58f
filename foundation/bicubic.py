"""Bicubic resizing as a matrix, for tables of positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from foundation.errors import UserError


def resize_matrix(old: int, new: int, *, offset: float, antialias: bool) -> Tensor:
    """Matrix of a bicubic resize along one axis.

    Args:
        old: length of the axis.
        new: wanted length.
        offset: added to the wanted length where the factor is taken (DINOv2: 0.1); 0 for none.
        antialias: whether a smaller table is smoothed first.

    Returns:
        [new, old] float32 on the CPU.
    """
    with torch.inference_mode(False), torch.no_grad():
        # Resized along its rows only. (An image of width 1 would do, but torch 2.15 mixes it up with antialias.)
        identity = torch.eye(old, dtype=torch.float64, device="cpu")[None, None]
        if offset:
            # Given as a factor, it also enters the places at which the source is sampled.
            factors = ((new + offset) / old, 1.0)
            resized = F.interpolate(identity, scale_factor=factors, mode="bicubic", antialias=antialias)
        else:
            resized = F.interpolate(identity, size=(new, old), mode="bicubic", antialias=antialias)
        matrix = resized[0, 0].float()
    if matrix.shape[0] != new:
        raise UserError(
            f"position.offset {offset} resizes {old} places to {matrix.shape[0]} instead of {new}: lower it"
        )
    return matrix
