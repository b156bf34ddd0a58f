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


def test_a_unit_in_brackets_that_is_not_known_is_noted_and_not_taken_for_the_default_in_silence():
    names = [f"acc {axis} (m/s3)" for axis in "xyz"] + [f"gyr {axis} (rad/s)" for axis in "xyz"]
    rows = "\n".join([",".join(names), *["0.1,0.2,9.8,0,0,0"] * 100])
    raw = {"__key__": "k", "__shard__": "s", "__id__": 0, "csv": rows.encode(), "json": b'{"imu_rate": 50}'}
    (note,) = decoded(Config().build(), raw)["__notes__"]
    assert note.reason == "units" and "'m/s3', no known unit of acceleration" in note.detail
    assert "taken as m/s^2; declare decode.acceleration (m/s^2, g, mg)" in note.detail
    declared = {**raw, "json": b'{"imu_rate": 50, "imu_units": {"acceleration": "m/s^2"}}'}
    assert "__notes__" not in decoded(Config().build(), declared)
