"""What a recipe wants to know of point clouds: how many points, how large, what each point says beyond x, y, z."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from foundation.data.moments import Facts, Moments, rounded_all, spread
from foundation.types import Sample


class Statistics:
    """Collects; see :class:`foundation.data.moments.Collector`.

    Args:
        views: a recipe's, or None; what it says of decoding has been followed already.
    """

    def __init__(self, views: Any = None, decoding: Any = None) -> None:
        self.number, self.radius = list[float](), list[float]()
        self.extent: dict[str, list[float]] = {"x": [], "y": [], "z": []}
        self.columns: Counter[int] = Counter()
        self.further: dict[int, Moments] = {}

    def add(self, sample: Sample, raw: Mapping[str, Any]) -> None:
        """Take a decoded cloud and its members."""
        points = sample["points"].numpy().astype(np.float64)
        xyz, columns = points[:, :3], points.shape[1]
        self.number.append(len(points))
        for axis, side in zip(self.extent, np.ptp(xyz, axis=0), strict=True):
            self.extent[axis].append(float(side))
        self.radius.append(float(np.linalg.norm(xyz - xyz.mean(axis=0), axis=1).max()))
        self.columns[columns] += 1
        if columns > 3:
            self.further.setdefault(columns, Moments()).add(points[:, 3:])

    def facts(self) -> Facts:
        """Lengths in the files' unit (scans: metres)."""
        found = Facts({"channels": min(self.columns)})
        found.facts["points"] = spread(self.number)
        found.facts |= {f"extent along {axis}": spread(sides) for axis, sides in self.extent.items()}
        found.facts["radius about the mean"] = spread(self.radius)
        found.facts["numbers of a point"] = {str(columns): n for columns, n in sorted(self.columns.items())}
        for columns, moments in sorted(self.further.items()):
            found.facts[f"mean of numbers 4 to {columns}"] = rounded_all(moments.mean)
            found.facts[f"deviation of numbers 4 to {columns}"] = rounded_all(moments.std)
            found.facts[f"least of numbers 4 to {columns}"] = rounded_all(moments.low)
            found.facts[f"most of numbers 4 to {columns}"] = rounded_all(moments.high)
        if len(self.columns) > 1:
            found.warnings.append("clouds differ in how much they say of a point; views.channels is what all have")
        if max(self.radius) > 1000 * max(min(self.radius), 1e-12):
            found.warnings.append(
                "the largest cloud is over 1,000 times as large as the smallest: is one in millimetres?"
            )
        return found
