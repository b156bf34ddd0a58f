"""What tokenizers share whose tokens are equal cells of a grid: pixels, spectrogram cells, tubelets, stretches of time.

Letters: R rows, C channels, N tokens, d axes of the grid.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, Self

import torch
from einops import rearrange
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.linear import linear

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

_CELLS = {
    1: "r c (a i) -> r a c i",
    2: "r c (a i) (b j) -> r (a b) c i j",
    3: "r c (a i) (b j) (e k) -> r (a b e) c i j k",
}
"""By number of axes: each axis of a view cut into cells, the cells one after the other."""


def cut(view: Tensor, cell: tuple[int, ...]) -> Tensor:
    """The numbers that each token covers.

    Args:
        view: [R, C, s1, ..., sd]. What does not fill a last cell is left out.
        cell: extent of a token along each axis.

    Returns:
        [R, N, C, *cell], last axis of the grid fastest.
    """
    for axis, (side, extent) in enumerate(zip(view.shape[2:], cell, strict=True), start=2):
        view = view.narrow(axis, 0, side // extent * extent)
    return rearrange(view, _CELLS[len(cell)], **dict(zip("ijk", cell, strict=False)))


def spread(hidden: Tensor, size: tuple[int, ...], cell: tuple[int, ...]) -> Tensor:
    """Which numbers of a view lie in some of its tokens.

    Args:
        hidden: [R, N] bool.
        size: (s1, ..., sd) of the view.
        cell: extent of a token along each axis.

    Returns:
        [R, 1, s1, ..., sd] bool; False in what fills no last cell.
    """
    counts = [side // extent for side, extent in zip(size, cell, strict=True)]
    grid = hidden.reshape(len(hidden), 1, *counts)
    for axis, extent in enumerate(cell, start=2):
        grid = grid.repeat_interleave(extent, dim=axis)
    whole = hidden.new_zeros((len(hidden), 1, *size))
    whole[(slice(None), slice(None), *(slice(side) for side in grid.shape[2:]))] = grid
    return whole


class StemmedConfig:
    """Base of the ``Config`` of tokenizers that may have a convolutional stem in front of their projection."""

    stem: Literal["patch", "conv"]
    """``patch``: none."""
    stem_width: int | None
    """Channels that it ends with; None: the width of a token."""

    def check_stem(self) -> None:
        """Refuse a stem that there is not.

        Raises:
            UserError: says what would be right.
        """
        if self.stem not in ("patch", "conv"):
            raise UserError(f"tokenizer.stem is {self.stem!r}: it must be 'patch' or 'conv'")
        if self.stem_width is not None and self.stem != "conv":
            raise UserError(
                f"tokenizer.stem_width is {self.stem_width}, but there is no stem: set tokenizer.stem: conv"
            )

    def with_stem_of(self, width: int) -> Self:
        """The same for tokens of another width that come from a stem for tokens of this one."""
        if self.stem == "patch" or self.stem_width is not None:
            return self
        return replace(self, stem_width=width)  # type: ignore[type-var]


class GridTokenizer(nn.Module):
    """Base of tokenizers whose tokens are the cells of a grid.

    Attributes:
        cell_shape: (C, *extent of a token along each axis): the numbers that one token covers.
        stem: convolutions down to the cells that ``projection`` takes; may be empty.
        projection: strided convolution whose kernel is one cell.
    """

    cell_shape: tuple[int, ...]
    stem: nn.Sequential
    projection: nn.Conv1d | nn.Conv2d | nn.Conv3d

    def cells(self, view: Tensor) -> Tensor:
        """[R, N, *cell_shape] numbers that each token of a view covers: what a reconstruction is measured on."""
        return cut(view, self.cell_shape[1:])

    def spread(self, hidden: Tensor, view: Tensor) -> Tensor:
        """[R, N] bool to bool that broadcasts over the view: which of its numbers lie in those tokens."""
        return spread(hidden, tuple(view.shape[2:]), self.cell_shape[1:])

    def project(self, maps: Tensor) -> Tensor:
        """[R, N, D] tokens of maps [R, C, s1, ..., sd], by the strided convolution as one matrix product.

        Unfolding copies each number once: about twice as fast on a CPU for small cells, and the order of summation in
        the gradient is the same in every run.
        """
        layer = self.projection
        return linear(cut(maps, layer.kernel_size).flatten(2), layer.weight.flatten(1), layer.bias)

    def flops(self, tokens: int) -> int:
        """Floating point operations of the matrix products for that many tokens, forward."""
        multiplications, cell = self.projection.weight.numel(), list(self.cell_shape[1:])
        for layer in self.stem:
            if isinstance(layer, _CONVOLUTIONS):  # each halves the axes that it slides along
                for axis in range(-len(layer.kernel_size), 0):
                    cell[axis] //= 2
                multiplications += math.prod(cell) * layer.weight.numel()
        return 2 * tokens * multiplications

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise again, in place (needed after building on the meta device)."""
        for layer in self.modules():
            if isinstance(layer, (*_CONVOLUTIONS, nn.BatchNorm1d, nn.BatchNorm2d)):
                layer.reset_parameters()
