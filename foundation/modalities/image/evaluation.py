"""How a probe sees an image: one centre crop, no randomness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from foundation.modalities.image.decode import Config as DecodeConfig
from foundation.ranges import Deviation, Number, PositiveShare, Range, Side, check
from foundation.types import Sample

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """One centre crop, no randomness."""

    size: Side = 224
    """Side of the crop, pixels."""
    crop_fraction: PositiveShare = 0.875
    """Share of the shorter side that the crop keeps (224 of 256)."""
    resize_below: Annotated[int, Range(0, 65536)] = 96
    """Images whose shorter side is below this many pixels are resized straight to ``size``: nothing to cut off."""
    mean: tuple[Number, Number, Number] = IMAGENET_MEAN
    """Subtracted per channel, for values in [0, 1]."""
    std: tuple[Deviation, Deviation, Deviation] = IMAGENET_STD
    """Divided by, per channel."""

    def __post_init__(self) -> None:
        check(self, "evaluation")

    def build(self) -> Evaluation:
        """The function from samples to pixels."""
        return Evaluation(self)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(CropConfig):
    """How a probe sees an image: one centre crop, no randomness."""

    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How files become pixels."""

    def __post_init__(self) -> None:
        CropConfig.__post_init__(self)


class Evaluation:
    """Preprocessing of the probes: resize (bicubic, antialiased), centre crop, normalise."""

    def __init__(self, config: CropConfig) -> None:
        self.config = config

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        """float32 [B, 3, size, size] of B samples with ``image`` uint8 [3, H, W]."""

        size = self.config.size
        pixels = torch.empty((len(samples), 3, size, size), dtype=torch.uint8)
        for place, sample in zip(pixels, samples, strict=True):
            place.copy_(self.crop(sample["image"]))
        return self.normalise(pixels)

    def normalise(self, pixels: Tensor) -> Tensor:
        """float32 of the same shape, ``(value / 255 - mean) / std``, of uint8 [..., 3, H, W]."""

        mean = torch.tensor(self.config.mean).view(3, 1, 1)
        std = torch.tensor(self.config.std).view(3, 1, 1)
        return pixels.to(torch.float32).div_(255.0).sub_(mean).div_(std)

    def crop(self, image: Tensor) -> Tensor:
        """uint8 [..., 3, size, size]: resized and cut around the centre, of uint8 [3, H, W] or [T, 3, H, W]."""

        size, (height, width) = self.config.size, image.shape[-2:]
        target, top, left = self.placed(height, width)
        if target != (height, width):
            stack = image if image.ndim == 4 else image[None]
            resized = F.interpolate(stack, size=target, mode="bicubic", antialias=True)
            image = resized if image.ndim == 4 else resized[0]
        return image[..., top : top + size, left : left + size]

    def placed(self, height: int, width: int) -> tuple[tuple[int, int], int, int]:
        """What becomes of an image of some size: (height, width) that it is resized to, and the first row and column
        of that which the crop keeps."""
        size, short = self.config.size, min(height, width)
        if short < self.config.resize_below:
            target = (size, size)
        else:
            edge = round(size / self.config.crop_fraction)
            target = (edge, int(edge * width / height)) if height <= width else (int(edge * height / width), edge)
        return target, round((target[0] - size) / 2), round((target[1] - size) / 2)

    def crop_map(self, values: NDArray[Any], height: int, width: int) -> NDArray[Any]:
        """[..., size, size]: what :meth:`crop` shows, of a map that says something of every pixel.

        Args:
            values: [..., h, w] numbers that must not be mixed (labels, depths): the nearest is taken. The map may be
                larger or smaller than the image.
            height: of the image.
            width: of the image.
        """
        target, top, left = self.placed(height, width)
        place = np.arange(self.config.size) + 0.5
        rows = ((top + place) / target[0] * values.shape[-2]).astype(np.int64)
        columns = ((left + place) / target[1] * values.shape[-1]).astype(np.int64)
        return values[..., rows[:, None], columns]

    def crop_places(self, places: NDArray[Any], height: int, width: int) -> NDArray[np.float64]:
        """[n, 2] places (x, y) in the crop, pixels of the crop, of places [n, 2] in the image, pixels of the image;
        they lie outside [0, size] where the crop does not show them."""
        target, top, left = self.placed(height, width)
        scale = np.array([target[1] / width, target[0] / height])
        return np.asarray(places, np.float64).reshape(-1, 2) * scale - np.array([left, top])
