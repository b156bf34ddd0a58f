"""Points to tokens: one token for each group of neighbouring points. Groups lie elsewhere in every cloud."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from foundation.errors import UserError
from foundation.ranges import Positive, Range, Side, check

if TYPE_CHECKING:
    from torch import Tensor

    from foundation.modalities.points.groups import PointTokenizer


@dataclass(frozen=True, kw_only=True)
class Config:
    """How a point cloud becomes tokens (Point-BERT, Point-MAE): farthest-point centres, nearest neighbours, PointNet.

    Needs no torch for ``coordinates``, so that data workers can ask for them cheaply.
    """

    stride: Side = 16
    """Points per token: a view of P points has P // stride groups (Point-MAE: 1024 points, 64 groups)."""

    group_size: Side = 32
    """Points of a group, the nearest to its centre; groups overlap (Point-MAE: 32)."""

    channels: Annotated[int, Range(3, 65536)] = 3
    """Numbers of a point: x, y, z and whatever follows (normal, colour, intensity)."""

    widths: tuple[Side, Side, Side] = (128, 256, 512)
    """Hidden widths of the small PointNet of a group: two layers before the first maximum, one after it."""

    norm: Literal["layer", "batch"] = "layer"
    """Norm inside the PointNet. ``batch`` is what was published: rows of a batch then share their statistics."""

    scale: Positive = 1.0
    """Factor on coordinates relative to the group's centre, before the network. Above 1 where groups are small beside
    the unit in which the points are given."""

    def __post_init__(self) -> None:
        check(self, "tokenizer")
        if len(self.widths) != 3:
            raise UserError(f"tokenizer.widths is {self.widths}: give three positive numbers (such as 128, 256, 512)")
        if self.norm not in ("layer", "batch"):
            raise UserError(f"tokenizer.norm is {self.norm!r}: it must be 'layer' or 'batch'")

    @property
    def dimensions(self) -> int:
        """Coordinates of a token's place: x, y, z."""
        return 3

    def groups(self, size: tuple[int, ...]) -> int:
        """Number of groups of a view.

        Args:
            size: (points,).

        Raises:
            UserError: too few points for one group, or for one stride.
        """
        if len(size) != 1:
            raise UserError(f"the size of a point cloud is one number, its points, but the size given is {tuple(size)}")
        points = int(size[0])
        if points < max(self.stride, self.group_size):
            raise UserError(
                f"a view of {points} points is too small for tokenizer.stride {self.stride} and group_size "
                f"{self.group_size}: give it at least {max(self.stride, self.group_size)} points, or lower them"
            )
        return points // self.stride

    def coordinates(self, size: tuple[int, ...]) -> NDArray[np.int64]:
        """Number of each token, [N, 1]: groups lie on no grid. Where they lie in a cloud, ``places`` says.

        Args:
            size: (points,).
        """
        return np.arange(self.groups(size), dtype=np.int64)[:, None]

    def places(self, view: Tensor) -> Tensor:
        """Centres of the groups.

        Args:
            view: [R, channels, P].

        Returns:
            [R, N, 3] float32, in the order of the tokens.
        """
        module = importlib.import_module("foundation.modalities.points.groups")
        return module.centres(view, self.groups(tuple(view.shape[2:])))

    def build(self, width: int) -> PointTokenizer:
        """Make the module.

        Args:
            width: width D of a token.
        """
        return importlib.import_module("foundation.modalities.points.groups").PointTokenizer(self, width)
