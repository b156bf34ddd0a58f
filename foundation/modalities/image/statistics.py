"""What a recipe wants to know of images: mean and deviation of each colour, sizes, the range of deep ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from foundation.data.moments import Facts, Moments, rounded_all, spread
from foundation.modalities.image.decode import find_member, raw_range
from foundation.types import Sample

_SHADES = np.arange(256) / 255.0


class Statistics:
    """Collects; see :class:`foundation.data.moments.Collector`.

    Args:
        views: a recipe's, or None.
    """

    def __init__(self, views: Any = None, decoding: Any = None) -> None:
        self.colours, self.heights, self.widths, self.grey = Moments(), list[float](), list[float](), 0
        decoding = decoding or (None if views is None else views.decode)
        self.member = None if decoding is None else decoding.member
        self.deep: dict[str, list[tuple[float, float]]] = {}

    def add(self, sample: Sample, raw: Mapping[str, Any]) -> None:
        """Take a decoded image and its members."""
        image = sample["image"].numpy()
        add_colours(self.colours, image)
        self.grey += bool((image[0] == image[1]).all() and (image[1] == image[2]).all())
        self.heights.append(image.shape[1])
        self.widths.append(image.shape[2])
        name = self.member or find_member(raw)
        numbers = raw_range(raw[name]) if name is not None else None
        if numbers is not None:
            self.deep.setdefault(numbers[0], []).append(numbers[1:])

    def facts(self) -> Facts:
        """Mean and deviation for values in [0, 1], sizes in pixels."""
        found = Facts(colours(self.colours), {"width": spread(self.widths), "height": spread(self.heights)})
        if self.grey:
            found.facts["grey pictures"] = self.grey
        for kind, ranges in sorted(self.deep.items()):
            lows, highs = zip(*ranges, strict=True)
            found.facts[f"smallest number ({kind})"] = spread(list(lows))
            found.facts[f"largest number ({kind})"] = spread(list(highs))
        return found


def add_colours(moments: Moments, image: np.ndarray[Any, Any]) -> None:
    """Take the colours of an image or film.

    Args:
        moments: of three channels.
        image: uint8 [3, ...].
    """
    counts = np.stack([np.bincount(channel.ravel(), minlength=256) for channel in image]) / image[0].size
    mean = counts @ _SHADES
    variance = (counts * (_SHADES - mean[:, None]) ** 2).sum(axis=1)
    low, high = image.reshape(3, -1).min(axis=1) / 255.0, image.reshape(3, -1).max(axis=1) / 255.0
    moments.add_moments(mean, variance, low, high)


def colours(moments: Moments) -> dict[str, Any]:
    """The words of a recipe's views."""
    return {"mean": rounded_all(moments.mean), "std": rounded_all(moments.std)}
