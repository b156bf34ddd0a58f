"""Units of inertial sensors: doubts about numbers that are no sensor's."""

from __future__ import annotations

import io

import numpy as np
import pytest

from foundation.data.boundary import decoded
from foundation.errors import SampleError
from foundation.modalities.imu.decode import Config


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_huge_number_is_refused_without_a_warning_of_numpy():
    values = np.tile([0.0, 0.0, 9.8, 0.0, 0.0, 0.0], (100, 1))
    values[50, 0] = 1e300
    stream = io.BytesIO()
    np.save(stream, values)
    raw = {"__key__": "k", "__shard__": "s", "__id__": 0, "npy": stream.getvalue(), "json": b'{"imu_rate": 50}'}
    with pytest.raises(SampleError, match=r"reading 50 of acc_x is 1e.300"):
        decoded(Config().build(), raw)
