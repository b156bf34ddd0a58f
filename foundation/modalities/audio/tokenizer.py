"""Spectrograms to tokens: time-frequency patches, or frames (columns as high as the spectrogram)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.modalities.grids import GridTokenizer, StemmedConfig
from foundation.modalities.image.tokenizer import conv_stem
from foundation.modalities.lattice import lattice
from foundation.ranges import Side, check


@dataclass(frozen=True, kw_only=True)
class Config(StemmedConfig):
    """How a log-mel spectrogram becomes tokens."""

    patch: tuple[Side, Side] = (16, 16)
    """Mel bands and frames of a token. ``[16, 16]``: patches, as in AST and ASiT. As many bands as the spectrogram has
    (``[64, 4]``): one token for every 4 frames, as in ATST."""

    stem: Literal["patch", "conv"] = "patch"
    """``patch``: one strided convolution. ``conv``: stride-2 convolutions down to the patch grid, then a projection
    (see the image tokenizer); square patches only, whose side is a power of two."""

    stem_width: Side | None = None
    """Channels that the convolutional stem ends with; None: as many as a token has numbers. An encoder cut out of a
    wider one keeps that one's stem whole."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "patch", tuple(int(side) for side in self.patch))
        if len(self.patch) != 2 or min(self.patch) < 1:
            raise UserError(
                f"tokenizer.patch is {list(self.patch)}: give bands and frames of a token, such as [16, 16] or [64, 4]"
            )
        check(self, "tokenizer")
        self.check_stem()
        side = self.patch[0]
        if self.stem == "conv" and (self.patch[1] != side or side < 2 or side & (side - 1)):
            raise UserError(
                f"tokenizer.patch is {list(self.patch)} with stem 'conv': the stem halves the view step by step, "
                "so patches must be square with a side of 2, 4, 8, 16, ..."
            )

    def grid(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Tokens along frequency and time. Frames that do not fill a last token are left out, as in ATST.

        Args:
            size: (mels, frames).

        Returns:
            (rows, columns); one row for frame tokens.

        Raises:
            UserError: the bands are no multiple of the patch's, or there are too few frames.
        """
        if len(size) != 2:
            raise UserError(f"a spectrogram has mel bands and frames, but the size given is {tuple(size)}")
        mels, frames = int(size[0]), int(size[1])
        high, wide = self.patch
        if mels < high or mels % high:
            raise UserError(
                f"a spectrogram of {mels} mel bands cannot be cut into tokens of {high}: choose "
                f"tokenizer.patch: [{_divisor(mels, high)}, {wide}], or another views.front_end.mels"
            )
        if frames < wide:
            raise UserError(
                f"a spectrogram of {frames} frames is shorter than one token of {wide}: make the views longer, or "
                "tokenizer.patch narrower"
            )
        return mels // high, frames // wide

    def coordinates(self, size: tuple[int, ...]) -> NDArray[np.int64]:
        """Place of each token in its grid.

        Args:
            size: (mels, frames).

        Returns:
            [N, 2] int64, (row, column) = (frequency, time), row-major; low frequencies first.

        Raises:
            UserError: see :meth:`grid`.
        """
        return lattice(self.grid(size))

    def build(self, width: int) -> AudioTokenizer:
        """Make the module.

        Args:
            width: width D of a token.
        """
        return AudioTokenizer(self, width)


def _divisor(number: int, near: int) -> int:
    """The divisor of a number that lies nearest to another number."""
    return min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: abs(d - near))


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
            self.stem, channels = conv_stem(1, config.stem_width or width, config.patch[0])
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
        return self.project(self.stem(whole)), grid, None
