"""Images to tokens: one token for each square patch, in row-major order."""

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
    from foundation.modalities.image.patches import ImageTokenizer


@dataclass(frozen=True, kw_only=True)
class Config:
    """How an image becomes tokens. Needs no torch, so that data workers can ask for coordinates cheaply."""

    patch_size: Side = 16
    """Side of a square patch in pixels."""

    channels: Side = 3
    """Colour channels of the image."""

    stem: Literal["patch", "conv"] = "patch"
    """``patch``: one strided convolution, as in ViT. ``conv``: stride-2 convolutions (kernel 3) with BatchNorm
    and ReLU down to the patch grid, then a projection (Xiao et al. 2021, "Early convolutions help transformers see
    better"); learns faster on small data. Neighbouring patches overlap by some pixels, and while it trains the rows of
    a batch share their statistics."""

    def __post_init__(self) -> None:
        check(self, "tokenizer")
        if self.stem not in ("patch", "conv"):
            raise UserError(f"tokenizer.stem is {self.stem!r}: it must be 'patch' or 'conv'")
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
        return importlib.import_module("foundation.modalities.image.patches").ImageTokenizer(self, width)


def _nearest(side: int, patch: int) -> list[int]:
    """Multiples of the patch next to a side: itself, or the ones below and above."""
    below = side // patch * patch
    if below == side:
        return [side]
    return [below, below + patch] if below else [patch]
