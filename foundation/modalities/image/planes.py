"""Pixels by plane, as the operations on colours see them: one view on a CPU, or all of a batch on an accelerator."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property, lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RED, GREEN, BLUE = 0.299, 0.587, 0.114
"""Weights of the grey value (ITU-R BT.601, as in Pillow)."""


class Work(NamedTuple):
    """Working memory: four planes, and a picture with its planes; ``bits``: the same memory as int32."""

    low: Any
    middle: Any
    high: Any
    chroma: Any
    chroma_bits: Any
    picture: Any
    picture_bits: Any
    picture_planes: tuple[Any, ...]


class Planes(ABC):
    """Pixels, float32 in [0, 255], clipped as torchvision clips them, never rounded.

    Attributes:
        xp: the library of the arrays, ``numpy`` or ``torch``; only what both have under the same name is used of it.
        pixels: the array of all planes.
        planes: red, green and blue, one array each.
    """

    def __init__(self, xp: ModuleType, pixels: Any, planes: tuple[Any, ...]) -> None:
        self.xp, self.pixels, self.planes = xp, pixels, planes

    @property
    @abstractmethod
    def work(self) -> Work:
        """Memory to work with; what is in it is of no use to another operation."""

    @abstractmethod
    def mix(self, factor: Any, offset: Any) -> None:
        """``factor`` times each pixel plus ``offset``, clipped."""

    @abstractmethod
    def mix_grey(self, factor: Any) -> None:
        """``factor`` times each pixel plus ``1 - factor`` times its grey value, clipped."""

    def _grey(self, share: Any) -> Any:
        """``share`` times the grey values, in working memory."""
        (red, green, blue), grey, plane = self.planes, self.work.low, self.work.middle
        self.xp.multiply(red, RED * share, out=grey)
        grey += self.xp.multiply(green, GREEN * share, out=plane)
        grey += self.xp.multiply(blue, BLUE * share, out=plane)
        return grey

    @abstractmethod
    def settle(self) -> None:
        """Makes ``pixels`` the pixels themselves; see :class:`ViewPlanes`."""

    @abstractmethod
    def mean_grey(self) -> Any:
        """The mean grey value of each view."""


class ViewPlanes(Planes):
    """Planes of one view on a CPU: NumPy's arrays [3, P x P] and [P x P], factors are floats.

    A call of NumPy costs a third of a call of torch, and one pass over a view of 96 pixels takes hardly longer. The
    memory is used again for view after view: giving it back to the operating system and fetching it anew costs more
    than the arithmetic.

    The pixels are ``gain x pixels + offset``: all operations but :func:`~foundation.modalities.image.colour.solarise`
    commute with that, so that mixing with black or with one grey costs nothing but the clipping, which only factors
    above 1 need.

    Args:
        memory: see :func:`~foundation.modalities.image.blur.view_memory`.
        size: height and width of the view, pixels.
        channels: 3, or 1: the first plane alone.
    """

    def __init__(self, memory: Tensor, size: int, channels: int = 3) -> None:
        array, side = memory.numpy(), math.isqrt(memory.shape[1])
        super().__init__(np, array[1 : 1 + channels], tuple(array[1 : 1 + channels]))
        self.memory = memory[1 : 1 + channels]
        lines = self.memory.view(channels, side, side)
        self.image = lines[:, :size, :size]
        self._margins = (lines[:, :, size:], lines[:, size:]) if size < side else ()
        self.array: NDArray[np.float32] = self.image.numpy()
        bits, picture = array.view(np.int32), array[8 : 8 + channels]
        low, middle, high, chroma = array[4:8]
        self._work = Work(low, middle, high, chroma, bits[7], picture, bits[8 : 8 + channels], tuple(picture))
        self._sums = np.empty(channels * size, np.float32)
        self._lines = torch.from_numpy(self._sums).view(channels, size)
        self._weights = _line_weights(size, size, memory.device).numpy()
        self.gain, self.offset = 1.0, 0.0

    @property
    def work(self) -> Work:
        return self._work

    def load(self, row: Tensor) -> None:
        """Takes the pixels of a view, [3, size, size] uint8 or float32."""
        self.image.copy_(row)
        for margin in self._margins:  # operations take it along: view by view it would grow until it is no number
            margin.zero_()
        self.gain, self.offset = 1.0, 0.0

    def mix(self, factor: float, offset: float) -> None:
        self.gain, self.offset = self.gain * factor, self.offset * factor + offset
        self._clip(factor)

    def mix_grey(self, factor: float) -> None:
        factor = max(factor, 1e-6)  # a sum that is divided by the factor, which the gain has in return
        pixels = self.pixels
        pixels += self._grey((1.0 - factor) / factor)
        self.gain *= factor
        self._clip(factor)

    def _clip(self, factor: float) -> None:
        if factor <= 1.0:
            return
        if self.gain == 0.0:
            self.offset = min(max(self.offset, 0.0), 255.0)
        else:
            self.memory.clamp_(-self.offset / self.gain, (255.0 - self.offset) / self.gain)

    def settle(self) -> None:
        pixels = self.pixels
        if self.gain != 1.0:
            pixels *= self.gain
        if self.offset != 0.0:
            pixels += self.offset
        self.gain, self.offset = 1.0, 0.0

    def mean_grey(self) -> float:
        torch.sum(self.image, -1, out=self._lines)  # line by line: the same whatever number of threads works on it
        return self.gain * float(np.dot(self._sums, self._weights)) + self.offset


class RowPlanes(Planes):
    """Planes of a batch on any device: tensors [R, 3, H, W] and [R, 1, H, W], factors are tensors [R, 1, 1, 1].

    Args:
        pixels: [R, 3, H, W] float32.
    """

    def __init__(self, pixels: Tensor) -> None:
        super().__init__(torch, pixels, pixels.split(1, 1))

    @cached_property
    def work(self) -> Work:  # type: ignore[override]
        rows, _, height, width = self.pixels.shape
        planes = torch.empty((4, rows, 1, height, width), device=self.pixels.device)
        picture = torch.empty((rows, 3, height, width), device=self.pixels.device)
        low, middle, high, chroma = planes.unbind(0)
        bits = chroma.view(torch.int32), picture.view(torch.int32)
        return Work(low, middle, high, chroma, bits[0], picture, bits[1], picture.split(1, 1))

    def mix(self, factor: Tensor, offset: Tensor | float) -> None:
        self.pixels.mul_(factor).add_(offset).clamp_(0.0, 255.0)  # to look at factors would be to wait for the device

    def mix_grey(self, factor: Tensor) -> None:
        grey = self._grey(1.0 - factor)
        self.pixels.mul_(factor).add_(grey).clamp_(0.0, 255.0)

    def settle(self) -> None:
        pass

    def mean_grey(self) -> Tensor:
        height, width = self.pixels.shape[-2:]
        weights = _line_weights(height, width, self.pixels.device)
        mean: Tensor = (self.pixels.sum(-1).flatten(1) * weights).sum(1)[:, None, None, None]
        return mean


@lru_cache(maxsize=8)
def _line_weights(height: int, width: int, device: torch.device) -> Tensor:
    """[3 H] what the sum of each line of red, green and blue gives to the mean grey value."""
    weights = torch.tensor([RED, GREEN, BLUE], dtype=torch.float64).repeat_interleave(height) / (height * width)
    return weights.to(device=device, dtype=torch.float32)
