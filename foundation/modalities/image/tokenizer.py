"""Images to tokens: one token for each square patch, in row-major order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.modalities.grids import GridTokenizer, StemmedConfig
from foundation.modalities.lattice import lattice
from foundation.ranges import Side, check


@dataclass(frozen=True, kw_only=True)
class Config(StemmedConfig):
    """How an image becomes tokens."""

    patch_size: Side = 16
    """Side of a square patch in pixels."""

    channels: Side = 3
    """Colour channels of the image."""

    stem: Literal["patch", "conv"] = "patch"
    """``patch``: one strided convolution, as in ViT. ``conv``: stride-2 convolutions (kernel 3) with BatchNorm
    and ReLU down to the patch grid, then a projection (Xiao et al. 2021, "Early convolutions help transformers see
    better"); learns faster on small data. Neighbouring patches overlap by some pixels, and while it trains the rows of
    a batch share their statistics."""

    stem_width: Side | None = None
    """Channels that the convolutional stem ends with; None: as many as a token has numbers. An encoder cut out of a
    wider one keeps that one's stem whole."""

    def __post_init__(self) -> None:
        check(self, "tokenizer")
        self.check_stem()
        if self.stem == "conv" and (self.patch_size < 2 or self.patch_size & (self.patch_size - 1)):
            raise UserError(
                f"tokenizer.patch_size is {self.patch_size} with stem 'conv': "
                "the stem halves the image step by step, so it must be a power of two (2, 4, 8, 16, ...)"
            )

    def grid(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of patches of an image.

        Args:
            size: (height, width) in pixels.

        Returns:
            (rows, columns).

        Raises:
            UserError: a side is no multiple of the patch size.
        """
        if len(size) != 2:
            raise UserError(f"an image has a height and a width, but the size given is {tuple(size)}")
        height, width = int(size[0]), int(size[1])
        patch = self.patch_size
        if height < patch or width < patch or height % patch or width % patch:
            nearest = [_nearest(height, patch), _nearest(width, patch)]
            fits = " or ".join(
                dict.fromkeys(f"{h}x{w}" for h, w in zip(*[s if len(s) == 2 else s * 2 for s in nearest], strict=True))
            )
            raise UserError(
                f"image resolution {height}x{width} is not a multiple of the patch size {patch}: "
                f"the nearest resolutions that fit are {fits}"
            )
        return height // patch, width // patch

    def coordinates(self, size: tuple[int, ...]) -> NDArray[np.int64]:
        """Place of each token in its grid.

        Args:
            size: (height, width) in pixels.

        Returns:
            [N, 2] int64, (row, column), row-major.

        Raises:
            UserError: a side is no multiple of the patch size.
        """
        return lattice(self.grid(size))

    def build(self, width: int) -> ImageTokenizer:
        """Make the module.

        Args:
            width: width D of a token.
        """
        return ImageTokenizer(self, width)


def _nearest(side: int, patch: int) -> list[int]:
    """Multiples of the patch next to a side: itself, or the ones below and above."""
    below = side // patch * patch
    if below == side:
        return [side]
    return [below, below + patch] if below else [patch]


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
            self.stem, channels = conv_stem(channels, config.stem_width or width, patch)
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
        return self.project(self.stem(view)), grid, None
