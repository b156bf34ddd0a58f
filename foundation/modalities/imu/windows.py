"""The geometric half of the views: which stretch of a recording a view covers, and how its axes are turned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from foundation.modalities.imu.signals import readings_at
from foundation.modalities.imu.units import kind_of
from foundation.modalities.rotations import rotation
from foundation.types import Sample


def extent(sample: Mapping[str, Any]) -> tuple[float, float]:
    """First and last moment of a recording on the sample's clock, seconds; each reading stands for 1 / rate."""
    begin = float(sample.get("imu_start", 0.0))
    return begin, begin + len(sample["imu"]) / float(sample["imu_rate"])


def window(
    sample: Sample,
    begin: float,
    seconds: float,
    size: int,
    path: NDArray[np.float64] | None = None,
    stretched: bool = False,
) -> NDArray[np.float32]:
    """A stretch of a recording as a fixed number of readings.

    Args:
        sample: with ``imu`` [T, C], ``imu_rate`` Hz and ``imu_start`` seconds.
        begin: of the stretch, seconds on the sample's clock.
        seconds: its length.
        size: readings wanted.
        path: [size] in [0, 1]: where in the stretch each lies; None: evenly, in the middle of equal parts.
        stretched: a recording that is shorter than the stretch fills it nevertheless; else it is mirrored at its ends.

    Returns:
        float32 [size, C]. Where the recording has the rate asked for, its readings are taken as they are, up to a shift
        of the stretch by half a reading.
    """
    values, rate = sample["imu"].numpy(), float(sample["imu_rate"])
    start, end = extent(sample)
    if stretched and seconds > end - start:
        begin, seconds = start, end - start
    stride = seconds * rate / size
    first = (begin - start) * rate
    if path is None:
        if abs(stride - 1.0) < 1e-6:
            first, stride = float(round(first)), 1.0
        positions = np.asarray(first + stride * (np.arange(size) + 0.5) - 0.5, np.float64)
        return readings_at(values, positions, stride)
    positions = np.asarray(first + seconds * rate * path - 0.5, np.float64)
    return readings_at(values, positions, max(stride, float(np.diff(positions).max(initial=stride))))


def warped(uniforms: NDArray[np.float64], strength: float, size: int) -> NDArray[np.float64]:
    """Times in [0, 1] of a clock that goes now faster, now slower, and is right at both ends.

    Args:
        uniforms: [2].
        strength: largest deviation of its speed from 1, below 1.
        size: times wanted, at the middle of equal parts.

    Returns:
        [size], ascending.
    """
    even = (np.arange(size) + 0.5) / size
    waves, phase = 1 + int(uniforms[0] * 3), 2.0 * math.pi * uniforms[1]
    angle = 2.0 * math.pi * waves
    return even + strength / angle * (np.sin(angle * even + phase) - math.sin(phase))


def turn(
    kind: Literal["none", "axis", "any"], axis: int, degrees: float, uniforms: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A rotation of the sensor's frame, [3, 3].

    Args:
        kind: ``axis``: about one axis of the sensor; ``any``: about a random one, or with 180 degrees all rotations
            alike.
        axis: 0, 1 or 2 for x, y or z.
        degrees: largest angle.
        uniforms: [3].
    """
    if kind != "any" or degrees >= 180.0:
        return rotation(kind, axis, degrees, uniforms)
    height, around = 2.0 * uniforms[0] - 1.0, 2.0 * math.pi * uniforms[1]
    level = math.sqrt(1.0 - height * height)
    x, y, z = level * math.cos(around), level * math.sin(around), height
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    angle = math.radians(degrees) * (2.0 * uniforms[2] - 1.0)
    return np.eye(3) + math.sin(angle) * cross + (1.0 - math.cos(angle)) * (cross @ cross)  # Rodrigues


def sensors(channels: tuple[str, ...]) -> list[tuple[int, ...]]:
    """Channels of each sensor: accelerations, angular velocities, then every other channel by itself."""
    kinds = [kind_of(name) for name in channels]
    groups = [
        tuple(i for i, kind in enumerate(kinds) if kind == wanted) for wanted in ("acceleration", "angular_velocity")
    ]
    return [group for group in groups if group] + [(i,) for i, kind in enumerate(kinds) if kind == "other"]


def triads(channels: tuple[str, ...]) -> list[tuple[int, ...]]:
    """Triples of channels that turn with the sensor: the axes of each accelerometer and gyroscope, in their order.

    Raises:
        ValueError: one of them lacks an axis.
    """
    found = []
    for wanted in ("acceleration", "angular_velocity"):
        own = [i for i, name in enumerate(channels) if kind_of(name) == wanted]
        if len(own) % 3:
            raise ValueError(f"{len(own)} channels of {wanted.replace('_', ' ')}")
        found += [tuple(own[i : i + 3]) for i in range(0, len(own), 3)]
    return found
