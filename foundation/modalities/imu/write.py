"""Readings as members of a shard that say themselves what they are, for data sets that make or convert recordings."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHANNELS = ("acc_x", "acc_y", "acc_z", "gyr_x", "gyr_y", "gyr_z")


def array(values: NDArray[Any]) -> bytes:
    """[T, C] as an NPY file of float32."""

    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(values, np.float32))
    return file.getvalue()


def facts(
    rate: float, start: float = 0.0, channels: Sequence[str] = CHANNELS, gravity: bool = True
) -> Mapping[str, Any]:
    """What the decoder wants to know, for the ``json`` member of a sample in m/s^2 and rad/s.

    Args:
        rate: readings per second, Hz.
        start: when the recording begins on the clock that the sample's sensors share, seconds.
        channels: names of the columns.
        gravity: whether accelerations contain it.
    """
    return {
        "imu_rate": round(float(rate), 6),
        "imu_start": round(float(start), 6),
        "imu_units": {"acceleration": "m/s^2", "angular_velocity": "rad/s"},
        "imu_channels": list(channels),
        "imu_gravity": gravity,
    }
