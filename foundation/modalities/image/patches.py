"""The torch half of the image tokenizer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.linear import linear
from foundation.modalities.grids import GridTokenizer

if TYPE_CHECKING:
    from foundation.modalities.image.tokenizer import Config


def conv_stem(channels: int, width: int, patch: int) -> tuple[nn.Sequential, int]:
    """Stride-2 convolutions (kernel 3) with BatchNorm and ReLU down to one cell for each square patch.

    Args:
        channels: of the input.
        width: width D of a token.
        patch: side of a patch, a power of two.

    Returns:
        The stem, and the channels that it ends with.
    """
    stem, halvings = _ChannelsLast(), int(math.log2(patch))
    for step in range(halvings):
        following = max(width >> (halvings - 1 - step), 16)
        last = step == halvings - 1
        if last:
            # Padded at the far side only, the field of view lies around the middle of the patch (within half a pixel)
            # and not around its first corner.
            stem.append(nn.ZeroPad2d((0, 1, 0, 1)))
        stem.append(nn.Conv2d(channels, following, 3, stride=2, padding=0 if last else 1, bias=False))
        stem.append(nn.BatchNorm2d(following))
        stem.append(nn.ReLU())
        channels = following
    return stem, channels


class _ChannelsLast(nn.Sequential):
    """Layers that run with channels last in memory: convolutions of several channels are a third faster so on a CPU."""

    def forward(self, maps: Tensor) -> Tensor:
        """[R, C, H, W] through all layers."""
        several = maps.shape[1] > 1
        result: Tensor = super().forward(maps.contiguous(memory_format=torch.channels_last) if several else maps)
        return result


class ImageTokenizer(GridTokenizer):
    """Images of any resolution to patch tokens.

    Args:
        config: patch size, channels and stem.
        width: width D of a token.
    """

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.config = config
        self.width = width
        self.cell_shape = (config.channels, config.patch_size, config.patch_size)
        self.stem, channels, patch = nn.Sequential(), config.channels, config.patch_size
        if config.stem == "conv":
            self.stem, channels = conv_stem(channels, width, patch)
            patch = 1
        self.projection = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, view: Tensor) -> tuple[Tensor, tuple[int, int], None]:
        """Cut the images of one view into tokens.

        Args:
            view: [R, channels, H, W].

        Returns:
            tokens [R, N, D]; the grid (rows, columns) with rows * columns = N, row-major; validity of the tokens:
            None, because every patch of an image is real.

        Raises:
            UserError: wrong number of channels, or a side that is no multiple of the patch size.
        """
        if view.ndim != 4 or view.shape[1] != self.config.channels:
            raise UserError(
                f"the image tokenizer expects views [rows, {self.config.channels}, height, width], "
                f"but got {list(view.shape)}"
            )
        grid = self.config.grid((view.shape[2], view.shape[3]))
        pixels = self.flat_cells(self.stem(view), self.projection.kernel_size)
        return linear(pixels, self.projection.weight.flatten(1), self.projection.bias), grid, None

    def flops(self, tokens: int) -> int:
        """Floating point operations of the matrix products for that many tokens, forward."""
        multiplications, side = self.projection.weight.numel(), self.config.patch_size
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
