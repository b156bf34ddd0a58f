"""Tokens of one grid as tokens of another: a teacher's map resized to the student's. Letters: R rows, D width."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from foundation.bicubic import resize_matrix
from foundation.errors import UserError
from foundation.objectives.base import ObjectiveContext


class Resize(nn.Module):
    """Bicubic resize of a map of tokens along each axis of its grid, as of a picture with D channels.

    Args:
        old: grid of the tokens that are given, such as (rows, columns).
        new: grid that is wanted.
        antialias: smooth first where the new grid is coarser.
    """

    def __init__(self, old: Sequence[int], new: Sequence[int], antialias: bool = False) -> None:
        super().__init__()
        self.old, self.new = tuple(old), tuple(new)
        for axis, (before, after) in enumerate(zip(self.old, self.new, strict=True)):
            matrix = resize_matrix(before, after, offset=0.0, antialias=antialias)
            self.register_buffer(f"axis_{axis}", matrix, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """[R, new N, D] float32 of tokens [R, old N, D].

        Raises:
            UserError: so many tokens are no such grid (an inner layer of an encoder that pools on its way).
        """
        if tokens.shape[1] != math.prod(self.old):
            raise UserError(
                f"{tokens.shape[1]} tokens cannot be resized as a grid of {shown(self.old)}: the layer has another "
                "grid than the last one; leave the tap out, or take one behind which tokens are no longer pooled"
            )
        with torch.autocast(tokens.device.type, enabled=False):
            cells = tokens.float().unflatten(1, self.old)
            for matrix in self.buffers():
                cells = torch.tensordot(cells, matrix, dims=([1], [1]))  # the axis goes to the end
            return cells.movedim(1, -1).flatten(1, -2)


def resize(
    context: ObjectiveContext, teacher: tuple[str, str], student: tuple[str, str], antialias: bool = False
) -> Resize | None:
    """What brings tokens of a teacher to the student's grid; None where both have one grid, or none that is known.

    Args:
        context: of the objective.
        teacher: its name and that of the view it sees.
        student: likewise.
        antialias: see :class:`Resize`.

    Raises:
        UserError: they have different numbers of tokens, and not both a grid with the same axes.
    """
    counts = [context.patches.get(key) for key in (teacher, student)]
    grids = [context.grids.get(key) for key in (teacher, student)]
    if None not in grids and len(grids[0] or ()) == len(grids[1] or ()):
        assert grids[0] is not None and grids[1] is not None
        return None if grids[0] == grids[1] else Resize(grids[0], grids[1], antialias)
    if None in counts or counts[0] == counts[1]:
        return None
    there = " and ".join(
        f"branch {name!r} cuts view {view!r} into {count} patches ({shown(grid) if grid else 'no grid'})"
        for (name, view), count, grid in zip((student, teacher), counts[::-1], grids[::-1], strict=True)
    )
    raise UserError(f"{there}: they cannot be resized to each other; give both encoders one grid")


def shown(grid: Sequence[int]) -> str:
    """``16 x 16``."""
    return " x ".join(map(str, grid))
