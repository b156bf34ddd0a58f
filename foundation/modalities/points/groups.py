"""The torch half of the point tokenizer: groups of neighbouring points, each through a small PointNet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.linear import Linear
from foundation.modalities.points.neighbours import farthest_points, gather_points, nearest_points

if TYPE_CHECKING:
    from foundation.modalities.points.tokenizer import Config


def centres(view: Tensor, count: int) -> Tensor:
    """Centres of the groups, [R, count, 3] float32, of views [R, channels, P]."""
    points = view[:, :3].transpose(1, 2).float()
    return gather_points(points, farthest_points(points, count))


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
        members, places = self.groups(view)
        return self.embed(members), places, None

    def groups(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Points of each group [R, N, k, C], their coordinates relative to its centre and scaled; centres [R, N, 3]."""
        count = self.config.groups((view.shape[2],))
        cloud = view.transpose(1, 2).float()  # [R, P, C]
        places = gather_points(cloud[..., :3], farthest_points(cloud[..., :3], count))
        near = nearest_points(cloud[..., :3], places, self.config.group_size)
        members = gather_points(cloud, near)
        relative = (members[..., :3] - places[:, :, None]) * self.config.scale
        return torch.cat([relative, members[..., 3:]], dim=-1) if cloud.shape[-1] > 3 else relative, places

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
