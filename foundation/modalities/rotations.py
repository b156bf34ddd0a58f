"""Random turns of whatever has axes in space: points, the axes of a sensor."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray


def rotation(
    kind: Literal["none", "axis", "any"], axis: int, degrees: float, uniforms: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A random rotation matrix [3, 3].

    Args:
        kind: ``axis``: about one coordinate axis by an angle uniform in [-degrees, degrees]; ``any``: all rotations
            alike (Shoemake 1992, uniform unit quaternions).
        axis: 0, 1 or 2 for x, y or z.
        degrees: largest angle about the axis.
        uniforms: [3].
    """
    if kind == "none":
        return np.eye(3)
    if kind == "axis":
        angle = np.deg2rad(degrees) * (2 * uniforms[0] - 1)
        matrix = np.eye(3)
        first, second = (axis + 1) % 3, (axis + 2) % 3
        matrix[first, first] = matrix[second, second] = np.cos(angle)
        matrix[second, first], matrix[first, second] = np.sin(angle), -np.sin(angle)
        return matrix
    a, b = np.sqrt(1 - uniforms[0]), np.sqrt(uniforms[0])
    s, t = 2 * np.pi * uniforms[1], 2 * np.pi * uniforms[2]
    x, y, z, w = a * np.sin(s), a * np.cos(s), b * np.sin(t), b * np.cos(t)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
