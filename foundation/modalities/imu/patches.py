"""The torch half of the tokenizer of inertial sensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.linear import linear
from foundation.modalities.grids import GridTokenizer, spread

if TYPE_CHECKING:
    from foundation.modalities.imu.tokenizer import Config


class ImuTokenizer(GridTokenizer):
    """Windows of any length to tokens.

    With the layout ``axis`` all channels go through the same weights, each by itself; what channel a token belongs to
    is said by its position.

    Args:
        config: patch, channels, layout and stem.
        width: width D of a token.
    """

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.config = config
        self.width = width
        together = config.layout == "joint"
        self.cell_shape = (config.channels, config.patch) if together else (1, 1, config.patch)
        channels = config.channels if together else 1
        self.stem, patch = nn.Sequential(), config.patch
        if config.stem == "conv":
            self.stem, channels = _stem(channels, width, patch)
            patch = 1
        self.projection = nn.Conv1d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, view: Tensor) -> tuple[Tensor, tuple[int, int], None]:
        """Cut the windows of one view into tokens.

        Args:
            view: [R, C, T].

        Returns:
            tokens [R, N, D]; the grid (rows, columns), time fastest; validity: None, every token is real.

        Raises:
            UserError: wrong number of axes or channels, or steps that do not fit the patch.
        """
        if view.ndim != 3 or view.shape[1] != self.config.channels:
            raise UserError(
                f"the imu tokenizer expects views [rows, {self.config.channels}, time steps], but got "
                f"{list(view.shape)}: tokenizer.channels must be the number of decode.channels"
            )
        grid = self.config.grid((view.shape[2],))
        maps = view if self.config.layout == "joint" else view.reshape(-1, 1, view.shape[2])
        cells = self.flat_cells(self.stem(maps), self.projection.kernel_size)
        tokens = linear(cells, self.projection.weight.flatten(1), self.projection.bias)
        return tokens.reshape(view.shape[0], grid[0] * grid[1], self.width), grid, None

    def cells(self, view: Tensor) -> Tensor:
        """[R, N, *cell_shape] readings that each token of a view [R, C, T] covers."""
        return super().cells(view if self.config.layout == "joint" else view[:, None])

    def spread(self, hidden: Tensor, view: Tensor) -> Tensor:
        """[R, N] bool to bool that broadcasts over the view: which of its readings lie in those tokens."""
        if self.config.layout == "joint":
            return super().spread(hidden, view)
        return spread(hidden, tuple(view.shape[1:]), self.cell_shape[1:])[:, 0]

    def flops(self, tokens: int) -> int:
        """Floating point operations of the matrix products for that many tokens, forward."""
        multiplications, steps = self.projection.weight.numel(), self.config.patch
        for layer in self.stem:
            if isinstance(layer, nn.Conv1d):
                steps //= 2
                multiplications += steps * layer.weight.numel()
        return 2 * tokens * multiplications

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise again, in place (needed after building on the meta device)."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv1d | nn.BatchNorm1d):
                layer.reset_parameters()


def _stem(channels: int, width: int, patch: int) -> tuple[nn.Sequential, int]:
    """Stride-2 convolutions (kernel 3) with BatchNorm and ReLU down to one step for each token; and its channels."""
    stem, halvings = nn.Sequential(), int(math.log2(patch))
    for step in range(halvings):
        following = max(width >> (halvings - 1 - step), 16)
        stem.append(nn.Conv1d(channels, following, 3, stride=2, padding=1, bias=False))
        stem.append(nn.BatchNorm1d(following))
        stem.append(nn.ReLU())
        channels = following
    return stem, channels
