"""The torch half of the video tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.linear import linear
from foundation.modalities.grids import GridTokenizer
from foundation.modalities.image.patches import conv_stem

if TYPE_CHECKING:
    from foundation.modalities.video.tokenizer import Config


class VideoTokenizer(GridTokenizer):
    """Clips of any length and resolution to tubelet tokens.

    Args:
        config: tubelet, patch size, channels and stem.
        width: width D of a token.
    """

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.config = config
        self.width = width
        self.cell_shape = (config.channels, config.tubelet, config.patch_size, config.patch_size)
        self.stem, channels, patch = nn.Sequential(), config.channels, config.patch_size
        if config.stem == "conv":
            self.stem, channels = conv_stem(channels, width, patch)
            patch = 1
        kernel = (config.tubelet, patch, patch)
        self.projection = nn.Conv3d(channels, width, kernel_size=kernel, stride=kernel)

    def forward(self, view: Tensor) -> tuple[Tensor, tuple[int, int, int], None]:
        """Cut the clips of one view into tokens.

        Args:
            view: [R, channels, T, H, W].

        Returns:
            tokens [R, N, D]; the grid (times, rows, columns), time slowest; validity: None, every tubelet is real.

        Raises:
            UserError: wrong number of axes or channels, or a clip that does not fit the tubelets.
        """
        if view.ndim != 5 or view.shape[1] != self.config.channels:
            raise UserError(
                f"the video tokenizer expects views [rows, {self.config.channels}, frames, height, width], "
                f"but got {list(view.shape)}"
            )
        frames, height, width = view.shape[2:]
        grid = self.config.grid((frames, height, width))
        if self.config.shows == "changes":
            view = view.diff(dim=2, prepend=view[:, :, :1])
        if len(self.stem):
            maps = self.stem(rearrange(view, "r c t h w -> (r t) c h w"))  # a frame at a time
            view = rearrange(maps, "(r t) c h w -> r c t h w", t=frames)
        cells = self.flat_cells(view, self.projection.kernel_size)
        return linear(cells, self.projection.weight.flatten(1), self.projection.bias), grid, None

    def flops(self, tokens: int) -> int:
        """Floating point operations of the matrix products for that many tokens, forward."""
        multiplications, side = self.projection.weight.numel(), self.config.patch_size
        for layer in self.stem:
            if isinstance(layer, nn.Conv2d):
                side //= 2
                multiplications += self.config.tubelet * side * side * layer.weight.numel()
        return 2 * tokens * multiplications

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise again, in place (needed after building on the meta device)."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.BatchNorm2d):
                layer.reset_parameters()
