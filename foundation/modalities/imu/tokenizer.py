"""Windows of readings to tokens: one for each stretch of time, of all channels together or of each by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.modalities.grids import GridTokenizer, StemmedConfig, spread
from foundation.modalities.lattice import lattice
from foundation.ranges import Side, check


@dataclass(frozen=True, kw_only=True)
class Config(StemmedConfig):
    """How a window of readings becomes tokens."""

    patch: Side = 16
    """Time steps that one token covers."""

    channels: Side = 6
    """Channels of the readings."""

    layout: Literal["joint", "axis"] = "joint"
    """``joint``: a token covers a stretch of all channels. ``axis``: every channel has tokens of its own (all share one
    projection), so that one missing axis leaves the others as they are; as many times the tokens."""

    stem: Literal["patch", "conv"] = "patch"
    """``patch``: one strided convolution. ``conv``: stride-2 convolutions over time down to one step for each token,
    then a projection (see the image tokenizer); learns faster on small data."""

    stem_width: Side | None = None
    """Channels that the convolutional stem ends with; None: as many as a token has numbers. An encoder cut out of a
    wider one keeps that one's stem whole."""

    def __post_init__(self) -> None:
        check(self, "tokenizer")
        if self.layout not in ("joint", "axis"):
            raise UserError(f"tokenizer.layout is {self.layout!r}: it must be 'joint' or 'axis'")
        self.check_stem()
        if self.stem == "conv" and (self.patch < 2 or self.patch & (self.patch - 1)):
            raise UserError(
                f"tokenizer.patch is {self.patch} with stem 'conv': the stem halves the window step by step, so it "
                "must be a power of two (2, 4, 8, 16, ...)"
            )

    def grid(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Rows (channels, or one for all) and columns (stretches of time).

        Args:
            size: (time steps,).

        Raises:
            UserError: the steps are no multiple of the patch.
        """
        if len(size) != 1:
            raise UserError(
                f"a window has time steps only, but the size given is {tuple(size)}: set encoder.size to [steps]"
            )
        steps = int(size[0])
        if steps < self.patch or steps % self.patch:
            below = max(1, steps // self.patch) * self.patch
            raise UserError(
                f"a window of {steps} time steps is not a multiple of tokenizer.patch {self.patch}: "
                f"the nearest that fit are {below} and {below + self.patch}"
            )
        return (self.channels if self.layout == "axis" else 1), steps // self.patch

    def coordinates(self, size: tuple[int, ...]) -> NDArray[np.int64]:
        """Place of each token in its grid.

        Args:
            size: (time steps,).

        Returns:
            [N, 2] int64, (channel, time), time fastest; the channel is 0 where all are together.

        Raises:
            UserError: see :meth:`grid`.
        """
        return lattice(self.grid(size))

    def build(self, width: int) -> ImuTokenizer:
        """Make the module.

        Args:
            width: width D of a token.
        """
        return ImuTokenizer(self, width)


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
            self.stem, channels = _stem(channels, config.stem_width or width, patch)
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
        tokens = self.project(self.stem(maps))
        return tokens.reshape(view.shape[0], grid[0] * grid[1], self.width), grid, None

    def cells(self, view: Tensor) -> Tensor:
        """[R, N, *cell_shape] readings that each token of a view [R, C, T] covers."""
        return super().cells(view if self.config.layout == "joint" else view[:, None])

    def spread(self, hidden: Tensor, view: Tensor) -> Tensor:
        """[R, N] bool to bool that broadcasts over the view: which of its readings lie in those tokens."""
        if self.config.layout == "joint":
            return super().spread(hidden, view)
        return spread(hidden, tuple(view.shape[1:]), self.cell_shape[1:])[:, 0]


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
