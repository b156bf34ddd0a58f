"""Operations on the colours of views, in place: the same formulas for one view on a CPU and for a batch on an accelerator.

Pixels are float32 in [0, 255], clipped as torchvision clips them, never rounded. On a CPU the arithmetic is NumPy's: a
call of it costs a third of a call of torch, and one pass over a view of 96 pixels takes hardly longer than either.
"""

from __future__ import annotations

import math
from functools import cached_property, lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

RED, GREEN, BLUE = 0.299, 0.587, 0.114
"""Weights of the grey value (ITU-R BT.601, as in Pillow)."""
_SIGN = -(2**31)  # the bit of the sign in a float32


class Work(NamedTuple):
    """Working memory: four planes and a picture, with its planes; ``bits``: the same memory as int32."""

    low: Any
    middle: Any
    high: Any
    chroma: Any
    chroma_bits: Any
    picture: Any
    picture_bits: Any
    picture_planes: tuple[Any, ...]


class Planes:
    """Pixels by plane. Arrays are NumPy's [3, H W] and [H W] for one view, or tensors [R, 3, H, W] and [R, 1, H, W].

    Attributes:
        xp: the library of the arrays, ``numpy`` or ``torch``; only what both have under the same name is used of it.
        pixels: the array of all planes.
        planes: red, green and blue, one array each.
        tensor: the memory of ``pixels``.
        image: [3, H, W] or [R, 3, H, W], the part of it that is the image.
    """

    def __init__(self, xp: ModuleType, pixels: Any, planes: tuple[Any, ...], tensor: Tensor, image: Tensor) -> None:
        self.xp, self.pixels, self.planes, self.tensor, self.image = xp, pixels, planes, tensor, image

    @classmethod
    def of_view(cls, memory: Tensor, size: int) -> Planes:
        """Planes of one view in memory from :func:`~foundation.modalities.image.blur.view_memory`."""
        array, side = memory.numpy(), math.isqrt(memory.shape[1])
        image = memory[1:4].view(3, side, side)[:, :size, :size]
        view = cls(np, array[1:4], tuple(array[1:4]), memory[1:4], image)
        low, middle, high, chroma = array[4:8]
        bits, picture = array.view(np.int32), array[8:]
        view.work = Work(low, middle, high, chroma, bits[7], picture, bits[8:], tuple(picture))
        return view

    @classmethod
    def of_rows(cls, tensor: Tensor) -> Planes:
        """Planes of [R, 3, H, W] float32, on any device."""
        return cls(torch, tensor, tensor.split(1, 1), tensor, tensor)

    def first(self) -> Planes:
        """The first plane alone, of one view."""
        one = Planes(self.xp, self.pixels[:1], self.planes[:1], self.tensor[:1], self.image[:1])
        one.work = self.work._replace(picture=self.work.picture[:1])
        return one

    @cached_property
    def work(self) -> Work:
        rows, _, height, width = self.tensor.shape
        planes = torch.empty((4, rows, 1, height, width), device=self.tensor.device)
        picture = torch.empty((rows, 3, height, width), device=self.tensor.device)
        bits = planes[3].view(torch.int32), picture.view(torch.int32)
        return Work(*planes.unbind(0), bits[0], picture, bits[1], picture.split(1, 1))

    def clip(self, factor: Any) -> None:
        """What was mixed by a factor is clipped; by one up to 1 it has stayed within its bounds."""
        if isinstance(factor, Tensor) or factor > 1.0:
            self.tensor.clamp_(0.0, 255.0)

    def mean_grey(self) -> Any:
        """The mean grey value of each view: a float, or a tensor [R, 1, 1, 1] that stays on its device."""
        # Lines first, each by itself: the same whatever number of threads works on it, and whatever else is in the batch.
        height, width = self.image.shape[-2:]
        lines, weights = self.image.sum(-1), _line_weights(height, width, self.image.device)
        if self.xp is np:
            return float(np.dot(lines.view(-1).numpy(), weights.numpy()))
        return (lines.flatten(1) * weights).sum(1)[:, None, None, None]


@lru_cache(maxsize=8)
def _line_weights(height: int, width: int, device: torch.device) -> Tensor:
    """[3 H] what the sum of each line of red, green and blue gives to the mean grey value."""
    weights = torch.tensor([RED, GREEN, BLUE], dtype=torch.float64).repeat_interleave(height) / (height * width)
    return weights.to(device=device, dtype=torch.float32)


# A value is a float for one view, a tensor [R, 1, 1, 1] for a batch.


def brightness(x: Planes, factor: Any) -> None:
    """Mixes with black."""
    pixels = x.pixels
    pixels *= factor
    x.clip(factor)


def contrast(x: Planes, factor: Any) -> None:
    """Mixes with the mean grey value of the whole view."""
    offset = x.mean_grey() * (1.0 - factor)
    pixels = x.pixels
    pixels *= factor
    pixels += offset
    x.clip(factor)


def saturation(x: Planes, factor: Any) -> None:
    """Mixes with the grey image."""
    xp, pixels, (red, green, blue) = x.xp, x.pixels, x.planes
    grey, plane, rest = x.work.low, x.work.middle, 1.0 - factor
    xp.multiply(red, RED * rest, out=grey)
    grey += xp.multiply(green, GREEN * rest, out=plane)
    grey += xp.multiply(blue, BLUE * rest, out=plane)
    pixels *= factor
    pixels += grey
    x.clip(factor)


def hue(x: Planes, shift: Any) -> None:
    """Turns the hue in HSV space; exact, in closed form.

    Let m <= d <= M be the three channels of a pixel by size. A turn of up to a sixth of the circle moves d alone, by
    shift (M - m), until it meets M or m; from there on what it met moves, the other way. So a channel x, followed by y
    and preceded by z in the circle red, green, blue, becomes ``clip(2 x - d - sign(y - z) shift (M - m), m, M)``: the
    sign is the same for the smallest and the largest channel and the other one for d, of which ``2 x - d`` is d. No case
    distinction, no division, no trip to HSV and back. (Where y = z the channel is already at its limit.)

    Args:
        x: the pixels.
        shift: sixths of a turn, in [-1, 1]; green comes after red.
    """
    xp, pixels, (red, green, blue) = x.xp, x.pixels, x.planes
    low, middle, high, chroma, chroma_bits, picture, picture_bits, (first, second, third) = x.work
    xp.minimum(red, green, out=low)
    xp.maximum(red, green, out=high)
    xp.minimum(high, blue, out=middle)
    xp.maximum(high, blue, out=high)
    xp.maximum(low, middle, out=middle)
    xp.minimum(low, blue, out=low)
    xp.subtract(high, low, out=chroma)
    chroma *= shift
    xp.subtract(green, blue, out=first)
    xp.subtract(blue, red, out=second)
    xp.subtract(red, green, out=third)
    picture_bits &= _SIGN
    picture_bits ^= chroma_bits  # the sign of the difference upon the shift
    picture += middle
    pixels += pixels
    pixels -= picture
    xp.maximum(pixels, low, out=pixels)
    xp.minimum(pixels, high, out=pixels)


def greyscale(x: Planes, value: Any = None) -> None:
    """The grey value in all three planes."""
    grey_plane(x)
    red, green, blue = x.planes
    green[...] = red
    blue[...] = red


def grey_plane(x: Planes) -> None:
    """The grey value in the first plane; what the others hold afterwards is of no use."""
    red, green, blue = x.planes
    red *= RED
    green *= GREEN
    red += green
    blue *= BLUE
    red += blue


def solarise(x: Planes, threshold: Any) -> None:
    """Inverts what is not below the threshold."""
    pixels, change = x.pixels, x.work.picture
    x.xp.multiply(pixels, -2.0, out=change)
    change += 255.0
    change *= pixels >= threshold
    pixels += change
