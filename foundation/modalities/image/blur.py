"""Gaussian blur with reflected edges: matrix products for one view on a CPU, convolutions for all on an accelerator."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_BLOCK = 8
_RADII = 16  # for which a view's memory is kept prepared


def blur_radius(sigma: NDArray[np.float64] | float, radius: int = 0) -> NDArray[np.int64]:
    """Half width of the blur kernel: ``ceil(3 sigma)`` pixels, or the fixed ``radius`` where that is not 0."""
    wanted = np.ceil(3.0 * np.asarray(sigma, np.float64)).astype(np.int64)
    return np.maximum(wanted, 1) if radius == 0 else np.full_like(wanted, radius)


def blur_kernels(sigma: NDArray[np.float64], radius: int = 0) -> NDArray[np.float32]:
    """Normalised Gaussian kernels, the right half from the centre on.

    Args:
        sigma: [R] pixels.
        radius: see :func:`blur_radius`.

    Returns:
        [R, largest radius + 1] float32; zero beyond a row's own radius.
    """
    own = blur_radius(sigma, radius)
    places = np.arange(int(own.max()) + 1)
    weights = np.exp(-0.5 * (places[None] / np.asarray(sigma)[:, None]) ** 2)
    weights = np.where(places[None] <= own[:, None], weights, 0.0)
    return (weights / (weights[:, :1] + 2.0 * weights[:, 1:].sum(1, keepdims=True))).astype(np.float32)


def blur_rows(x: Tensor, kernels: Tensor) -> Tensor:
    """Blurs each row with its own kernel, in place, by two depthwise convolutions: what accelerators do well.

    Args:
        x: [R, C, H, W] float32.
        kernels: [R, radius + 1], see :func:`blur_kernels`; the radius is less than H and W.
    """
    rows, channels, height, width = x.shape
    radius = kernels.shape[1] - 1
    taps = torch.cat([kernels.flip(1)[:, :-1], kernels], 1).repeat_interleave(channels, 0)[:, None, None]
    wide = F.pad(x, (radius,) * 4, mode="reflect").view(1, rows * channels, height + 2 * radius, width + 2 * radius)
    wide = F.conv2d(wide, taps, groups=rows * channels)
    wide = F.conv2d(wide, taps.transpose(2, 3), groups=rows * channels)
    return x.copy_(wide.view(rows, channels, height, width))


def view_memory(size: int) -> Tensor:
    """Memory for the work on one view, on the CPU: a margin, the pixels (three planes) and seven planes to work with.

    Args:
        size: height and width of the view, pixels.

    Returns:
        [11, P x P] float32, 0, with P the size rounded up to whole blocks of 8 pixels. It is used again for view after
        view: giving it back to the operating system and fetching it anew costs more than the arithmetic.
    """
    side = -(-size // _BLOCK) * _BLOCK
    return torch.zeros((11, side * side), dtype=torch.float32)


def blur_bands(kernels: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """The blur of a line as banded matrices: eight output pixels depend on 8 + 2 radius input pixels.

    The matrices of the first and the last blocks hold the reflection at the edge. What lies beyond it has weight 0.

    Args:
        kernels: [R, radius + 1], see :func:`blur_kernels`, all of one radius, which is less than ``size``.
        size: of the line, pixels.

    Returns:
        [R, K, 8, 8 + 2 radius] float32, of the K blocks that differ.
    """
    bands = _bands_of(size, kernels.shape[1] - 1)
    padded = np.concatenate([kernels, np.zeros((len(kernels), 1), np.float32)], 1)
    weights: NDArray[np.float32] = padded.take(bands.taps, axis=1)
    for places, taps in bands.images:
        weights[:, places] += padded.take(taps, axis=1)
    return weights.reshape(len(kernels), *bands.shape)


class _Bands(NamedTuple):
    """Which taps connect an input pixel to an output pixel of a line.

    Attributes:
        shape: K, 8, 8 + 2 radius.
        taps: [K x 8 x (8 + 2 radius)] the tap that meets the pixel itself; radius + 1 = none.
        images: where other taps meet its image beyond the first or the last edge: places in ``taps``, and these taps.
        which: [blocks] which of the K different matrices each block has.
    """

    shape: tuple[int, ...]
    taps: NDArray[np.int64]
    images: tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]
    which: NDArray[np.int64]


@lru_cache(maxsize=64)
def _bands_of(size: int, radius: int) -> _Bands:
    starts = np.arange(0, size, _BLOCK)
    output = (starts[:, None] + np.arange(_BLOCK))[:, :, None]  # [blocks, 8, 1]
    pixel = (starts[:, None] + np.arange(-radius, _BLOCK + radius))[:, None]  # [blocks, 1, 8 + 2 radius]
    inside, last = (pixel >= 0) & (pixel < size) & (output < size), size - 1
    images = ((pixel, inside), (-pixel, inside & (pixel > 0)), (2 * last - pixel, inside & (pixel < last)))
    taps = [np.where(there, abs(image - output), radius + 1).clip(max=radius + 1) for image, there in images]
    different, which = np.unique(np.stack(taps, 1), axis=0, return_inverse=True)  # [K, 3, 8, 8 + 2 radius]
    own, *others = different.swapaxes(0, 1).reshape(3, -1)
    met = tuple((np.flatnonzero(other <= radius), other[other <= radius]) for other in others)
    return _Bands((len(different), *taps[0].shape[1:]), own, met, which.reshape(-1))


class ViewBlur:
    """Blurs one view after the other by small matrix products: several times as fast as convolutions on a CPU.

    There are two passes, each of which blurs lines and writes them as columns: so both write what lies together.

    Args:
        memory: see :func:`view_memory`; the pixels are blurred in place, the rest is working memory.
        size: height and width of the view, pixels.
        channels: 3, or 1: the first plane alone.
    """

    def __init__(self, memory: Tensor, size: int, channels: int = 3) -> None:
        self.memory, self.size, self.channels = memory, size, channels
        self.blocks = -(-size // _BLOCK)
        self._prepared: dict[int, tuple[NDArray[np.int64], NDArray[np.float32], tuple[Tensor, ...]]] = {}

    def __call__(self, bands: NDArray[np.float32]) -> None:
        """Blurs in place.

        Args:
            bands: [K, 8, 8 + 2 radius], one row of :func:`blur_bands`.
        """
        radius = (bands.shape[2] - _BLOCK) // 2
        if radius not in self._prepared:
            if len(self._prepared) >= _RADII:
                self._prepared.clear()
            self._prepared[radius] = self._prepare(radius)
        which, matrices, (first, rows, turned, second, columns, pixels) = self._prepared[radius]
        np.take(bands, which, axis=0, out=matrices, mode="clip")
        torch.bmm(first, rows, out=turned)
        torch.bmm(second, columns, out=pixels)

    def _prepare(self, radius: int) -> tuple[NDArray[np.int64], NDArray[np.float32], tuple[Tensor, ...]]:
        """The matrices of all blocks, and the memory as each pass sees it."""
        channels, blocks, span, memory = self.channels, self.blocks, _BLOCK + 2 * radius, self.memory
        side, plane = blocks * _BLOCK, memory.shape[1]
        lines = channels * side
        which = np.tile(_bands_of(self.size, radius).which, channels)
        matrices = np.empty((len(which), _BLOCK, span), np.float32)
        second = torch.from_numpy(matrices)
        # Windows overlap, and reach into other lines, planes and memory: finite numbers, which get weight 0.
        rows = memory.as_strided((blocks, lines, span), (_BLOCK, side, 1), plane - radius)
        start = 4 * plane + -(-radius // 16) * 16  # at a line of the cache
        turned = memory.as_strided((blocks, _BLOCK, lines), (_BLOCK * lines, lines, 1), start)
        columns = memory.as_strided((channels * blocks, side, span), (_BLOCK, lines, 1), start - radius)
        pixels = memory[1 : 1 + channels].view(channels * blocks, _BLOCK, side)
        views = second[:blocks], rows.transpose(1, 2), turned, second, columns.transpose(1, 2), pixels
        return which, matrices, views
