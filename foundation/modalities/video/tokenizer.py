"""Clips to tokens: one token for each tubelet, a square patch over a few frames; time first, then row, then column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.modalities.grids import GridTokenizer, StemmedConfig
from foundation.modalities.image.tokenizer import Config as ImageConfig
from foundation.modalities.image.tokenizer import conv_stem
from foundation.modalities.lattice import lattice
from foundation.ranges import Side, check


@dataclass(frozen=True, kw_only=True)
class Config(StemmedConfig):
    """How a clip becomes tokens (Arnab et al. 2021, ViViT)."""

    tubelet: Side = 2
    """Frames that one token covers."""

    patch_size: Side = 16
    """Side of the square that one token covers, pixels."""

    channels: Side = 3
    """Colour channels of the frames."""

    stem: Literal["patch", "conv"] = "patch"
    """``patch``: one strided 3-D convolution. ``conv``: each frame goes through the image tokenizer's convolutions
    first, then a projection over the frames of a tubelet; learns faster on small data."""

    stem_width: Side | None = None
    """Channels that the convolutional stem ends with; None: as many as a token has numbers. An encoder cut out of a
    wider one keeps that one's stem whole."""

    shows: Literal["frames", "changes"] = "frames"
    """``changes``: each frame less the one before it (the RGB difference of TSN, Wang et al. 2016; the first is 0).
    What stands still drops out: who it is and where, which a small data set would be learnt by heart from. For fixed
    cameras."""

    def __post_init__(self) -> None:
        check(self, "tokenizer")
        if self.shows not in ("frames", "changes"):
            raise UserError(f"tokenizer.shows is {self.shows!r}: it must be 'frames' or 'changes'")
        self.image  # noqa: B018  its own checks

    @property
    def image(self) -> ImageConfig:
        """The tokenizer of a single frame."""
        return ImageConfig(
            patch_size=self.patch_size, channels=self.channels, stem=self.stem, stem_width=self.stem_width
        )

    def grid(self, size: tuple[int, ...]) -> tuple[int, int, int]:
        """Tubelets of a clip: in time, rows and columns.

        Args:
            size: (frames, height, width).

        Raises:
            UserError: frames or a side are no multiple of the tubelet's.
        """
        if len(size) != 3:
            raise UserError(
                f"a clip has frames, a height and a width, but the size given is {tuple(size)}: "
                "set encoder.size to [frames, height, width]"
            )
        frames = int(size[0])
        if frames < 1 or frames % self.tubelet:
            raise UserError(f"{frames} frames of a clip are not a multiple of tokenizer.tubelet {self.tubelet}")
        return (frames // self.tubelet, *self.image.grid(tuple(size[1:])))

    def coordinates(self, size: tuple[int, ...]) -> NDArray[np.int64]:
        """Place of each token in its grid.

        Args:
            size: (frames, height, width).

        Returns:
            [N, 3] int64, (time, row, column), column fastest.

        Raises:
            UserError: as :meth:`grid`.
        """
        return lattice(self.grid(size))

    def build(self, width: int) -> VideoTokenizer:
        """Make the module.

        Args:
            width: width D of a token.
        """
        return VideoTokenizer(self, width)


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
            self.stem, channels = conv_stem(channels, config.stem_width or width, patch)
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
        return self.project(view), grid, None
