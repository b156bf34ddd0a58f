"""Spectrograms to tokens: time-frequency patches, or frames (columns as high as the spectrogram)."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from foundation.errors import UserError
from foundation.modalities.lattice import lattice
from foundation.ranges import Side

if TYPE_CHECKING:
    from foundation.modalities.audio.patches import AudioTokenizer


@dataclass(frozen=True, kw_only=True)
class Config:
    """How a log-mel spectrogram becomes tokens. Needs no torch, so that data workers get coordinates cheaply."""

    patch: tuple[Side, Side] = (16, 16)
    """Mel bands and frames of a token. ``[16, 16]``: patches, as in AST and ASiT. As many bands as the spectrogram has
    (``[64, 4]``): one token for every 4 frames, as in ATST."""

    stem: Literal["patch", "conv"] = "patch"
    """``patch``: one strided convolution. ``conv``: stride-2 convolutions down to the patch grid, then a projection
    (see the image tokenizer); square patches only, whose side is a power of two."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "patch", tuple(int(side) for side in self.patch))
        if len(self.patch) != 2 or min(self.patch) < 1:
            raise UserError(
                f"tokenizer.patch is {list(self.patch)}: give bands and frames of a token, such as [16, 16] or [64, 4]"
            )
        if self.stem not in ("patch", "conv"):
            raise UserError(f"tokenizer.stem is {self.stem!r}: it must be 'patch' or 'conv'")
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
        return importlib.import_module("foundation.modalities.audio.patches").AudioTokenizer(self, width)


def _divisor(number: int, near: int) -> int:
    """The divisor of a number that lies nearest to another number."""
    return min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: abs(d - near))
