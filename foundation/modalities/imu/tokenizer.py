"""Windows of readings to tokens: one for each stretch of time, of all channels together or of each by itself."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from foundation.errors import UserError
from foundation.modalities.lattice import lattice
from foundation.ranges import Side, check

if TYPE_CHECKING:
    from foundation.modalities.imu.patches import ImuTokenizer


@dataclass(frozen=True, kw_only=True)
class Config:
    """How a window of readings becomes tokens. Needs no torch, so that data workers can ask for coordinates cheaply."""

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

    def __post_init__(self) -> None:
        check(self, "tokenizer")
        if self.layout not in ("joint", "axis"):
            raise UserError(f"tokenizer.layout is {self.layout!r}: it must be 'joint' or 'axis'")
        if self.stem not in ("patch", "conv"):
            raise UserError(f"tokenizer.stem is {self.stem!r}: it must be 'patch' or 'conv'")
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
        return importlib.import_module("foundation.modalities.imu.patches").ImuTokenizer(self, width)
