"""Points to tokens: one token for each group of neighbouring points. Groups lie elsewhere in every cloud."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.linear import Linear
from foundation.modalities.points.neighbours import farthest_points, gather_points, groups_of
from foundation.ranges import Positive, Range, Side, check


@dataclass(frozen=True, kw_only=True)
class Config:
    """How a point cloud becomes tokens (Point-BERT, Point-MAE): farthest-point centres, nearest points, PointNet."""

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
        """Number of each token, [N, 1]: groups lie on no grid. Where they lie in a cloud, ``coordinates_of`` says.

        Args:
            size: (points,).
        """
        return np.arange(self.groups(size), dtype=np.int64)[:, None]

    def coordinates_of(self, view: Tensor) -> Tensor:
        """Centres of the groups.

        Args:
            view: [R, channels, P].

        Returns:
            [R, N, 3] float32, in the order of the tokens.
        """
        points = view[:, :3].transpose(1, 2).float()
        return gather_points(points, farthest_points(points, self.groups(tuple(view.shape[2:]))))

    def build(self, width: int) -> PointTokenizer:
        """Make the module.

        Args:
            width: width D of a token.
        """
        return PointTokenizer(self, width)


class PointTokenizer(nn.Module):
    """Clouds of any number of points to group tokens.

    Args:
        config: groups and widths.
        width: width D of a token.
    """

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.config = config
        self.width = width
        self.cell_shape = (config.group_size, 3)
        first, second, third = config.widths

        def norm(channels: int) -> nn.Module:
            return nn.LayerNorm(channels) if config.norm == "layer" else nn.BatchNorm1d(channels)

        self.point = nn.Sequential(Linear(config.channels, first), norm(first), nn.ReLU(), Linear(first, second))
        # Published: one layer of [maximum of the group, the point's own]. The two halves of its matrix stand apart, so
        # that the group's half is multiplied once per group and not once per point.
        self.whole = Linear(second, third)
        self.own = Linear(second, third, bias=False)
        self.projection = nn.Sequential(norm(third), nn.ReLU(), Linear(third, width))
        self.reset_parameters()

    def forward(self, view: Tensor) -> tuple[Tensor, Tensor, None]:
        """Tokens of the clouds of one view.

        Args:
            view: [R, channels, P].

        Returns:
            tokens [R, N, D]; their places [R, N, 3] float32, for tokens on a grid it would be the grid; validity of the
            tokens: None, because every group is real.

        Raises:
            UserError: wrong number of channels, or too few points.
        """
        if view.ndim != 3 or view.shape[1] != self.config.channels:
            raise UserError(
                f"the point tokenizer expects views [rows, {self.config.channels}, points], but got {list(view.shape)}"
            )
        members, centres = self.groups(view)
        return self.embed(members), centres, None

    def groups(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Points of each group [R, N, k, C], their coordinates relative to its centre and scaled; centres [R, N, 3]."""
        count = self.config.groups((view.shape[2],))
        cloud = view.transpose(1, 2).float()  # [R, P, C]
        middle, near = groups_of(view, count, self.config.group_size)
        centres = gather_points(cloud[..., :3], middle)
        members = gather_points(cloud, near)
        relative = (members[..., :3] - centres[:, :, None]) * self.config.scale
        return torch.cat([relative, members[..., 3:]], dim=-1) if cloud.shape[-1] > 3 else relative, centres

    def cells(self, view: Tensor) -> Tensor:
        """[R, N, k, 3] coordinates of the points that each token covers, as the network sees them."""
        return self.groups(view)[0][..., :3]

    def embed(self, members: Tensor) -> Tensor:
        """Tokens [R, N, D] of groups [R, N, k, C] whose coordinates are relative to their centres (mini-PointNet)."""
        rows, groups, _, _ = members.shape
        together, apart = "r n k c -> (r n k) c", "(r n k) c -> r n k c"  # BatchNorm wants channels second
        points = rearrange(self.point(rearrange(members, together)), apart, r=rows, n=groups)
        # max, not amax: it keeps one place of each group for the gradient instead of the values of all its points.
        whole = self.whole(points.max(dim=2, keepdim=True).values)
        tokens = self.projection(rearrange(self.own(points) + whole, together))
        return rearrange(tokens, apart, r=rows, n=groups).max(dim=2).values

    @property
    def kept_per_token(self) -> int:
        """Numbers that the backward pass needs of each token: every point of a group has its own hidden layers."""
        first, second, third = self.config.widths
        return self.config.group_size * (self.config.channels + 2 * first + second + 2 * third) + 2 * self.width

    def flops(self, tokens: int) -> int:
        """Floating point operations of the matrix products for that many tokens, forward; the search for neighbours,
        which multiplies nothing, is not counted."""
        first, second, third = self.config.widths
        each = self.config.channels * first + first * second + second * third + third * self.width
        return 2 * tokens * (self.config.group_size * each + second * third)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise again, in place (needed after building on the meta device)."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.LayerNorm | nn.BatchNorm1d):
                layer.reset_parameters()
