"""The torch half of the audio tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.linear import linear
from foundation.modalities.grids import GridTokenizer
from foundation.modalities.image.patches import conv_stem

if TYPE_CHECKING:
    from foundation.modalities.audio.tokenizer import Config


class AudioTokenizer(GridTokenizer):
    """Log-mel spectrograms of any length to tokens.

    The projection's weight is [D, 1, bands, frames], as a convolution has it; flattened it is ATST's linear embedding
    of a strip (mel-major).

    Args:
        config: patch and stem.
        width: width D of a token.
    """

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.config = config
        self.width = width
        self.cell_shape = (1, *config.patch)
        self.stem, channels, patch = nn.Sequential(), 1, config.patch
        if config.stem == "conv":
            self.stem, channels = conv_stem(1, width, config.patch[0])
            patch = (1, 1)
        self.projection = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, view: Tensor) -> tuple[Tensor, tuple[int, int], None]:
        """Cut the spectrograms of one view into tokens.

        Args:
            view: [R, 1, mels, frames].

        Returns:
            tokens [R, N, D]; the grid (rows, columns) with rows * columns = N, row-major; validity: None, every token
            is real.

        Raises:
            UserError: wrong shape, or a size that does not fit the patches.
        """
        if view.ndim != 4 or view.shape[1] != 1:
            raise UserError(f"the audio tokenizer expects views [rows, 1, mels, frames], but got {list(view.shape)}")
        grid = self.config.grid((view.shape[2], view.shape[3]))
        whole = view[..., : grid[1] * self.config.patch[1]]
        cells = self.flat_cells(self.stem(whole), self.projection.kernel_size)
        return linear(cells, self.projection.weight.flatten(1), self.projection.bias), grid, None

    def flops(self, tokens: int) -> int:
        """Floating point operations of the matrix products for that many tokens, forward."""
        multiplications, side = self.projection.weight.numel(), self.config.patch[0]
        for layer in self.stem:
            if isinstance(layer, nn.Conv2d):
                side //= 2
                multiplications += side * side * layer.weight.numel()
        return 2 * tokens * multiplications

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise again, in place (needed after building on the meta device)."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
                layer.reset_parameters()
