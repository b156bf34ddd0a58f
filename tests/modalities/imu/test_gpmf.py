"""Telemetry in the files of action cameras, against reference readings of a real one."""

from __future__ import annotations

import io
import struct
import tarfile

import numpy as np
import pytest

from foundation.modalities.imu import gpmf
from foundation.modalities.imu.errors import ImuError


def members(path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def entry(letters: str, kind: str, size: int, repeat: int, content: bytes) -> bytes:
    head = struct.pack(">4sBBH", letters.encode(), ord(kind) if kind else 0, size, repeat)
    return head + content + b"\0" * (-len(content) % 4)


def payload(values: np.ndarray, letters: str = "ACCL", scale: int = 100, axes: str = "") -> bytes:
    readings = np.round(values * scale).astype(">i2").tobytes()
    stream = entry("SCAL", "s", 2, 1, struct.pack(">h", scale))
    if axes:
        stream += entry("ORIN", "c", 1, len(axes), axes.encode())
    stream += entry("SIUN", "c", 4, 1, "m/s²".encode("latin-1")) + entry(letters, "s", 6, len(values), readings)
    whole = entry("STRM", "", 1, len(stream), stream)
    return entry("DEVC", "", 1, len(whole), whole)


def test_a_real_flight_is_read_like_the_reference(shared_data):
    files = members(shared_data("video_files") / "gopro-000000.tar")
    payloads = gpmf.track(files["karma.mp4"])
    assert len(payloads) == 13
    for letters, name, count in (("ACCL", "accl", 2397), ("GYRO", "gyro", 4795)):
        reference = np.load(io.BytesIO(files[f"karma.{name}.npy"]))
        values, times = gpmf.readings(payloads, letters)
        assert values.shape == (count, 3) and np.abs(values - reference[:, 1:]).max() < 1e-4
        before = reference[:, 0] < 12.0  # the reference stretches the few readings of the last payload over a second
        assert np.abs(times - reference[:, 0])[before].max() < 1e-3
        steps = np.diff(times)
        assert (steps > 0).all() and steps.max() < 1.1 * steps.min()
        assert abs(times[-1] - 12.08) < 0.02  # the video ends at 12.079 s
    assert 9 < np.median(np.linalg.norm(gpmf.readings(payloads, "ACCL")[0], axis=1)) < 11


def test_payloads_of_several_cameras(shared_data):
    files = members(shared_data("video_files") / "gpmf-payload-000000.tar")
    assert len(files) == 5
    for name, data in files.items():
        found = gpmf.parse(data)
        assert {"ACCL", "GYRO"} <= found.keys(), name
        assert found["ACCL"].unit == "m/s²" and found["GYRO"].unit == "rad/s"
        assert 8 < np.median(np.linalg.norm(found["ACCL"].values, axis=1)) < 12, name
        for cut in (7, len(data) // 3, len(data) - 5):
            try:
                gpmf.parse(data[:cut])
            except ImuError as error:
                assert error.reason in ("truncated", "decode")


def test_the_tree_is_read_as_described():
    values = np.array([[1.0, -2.0, 9.81], [0.5, 0.25, 9.8]])
    found = gpmf.parse(payload(values) + payload(values + 1) + b"\0" * 12)
    assert np.allclose(found["ACCL"].values, values, atol=0.005) and found["ACCL"].unit == "m/s²"
    steps = [(k * 1.001, payload(np.full((n, 3), k))) for k, n in enumerate((200, 199, 201, 20))]
    readings, times = gpmf.readings(steps, "ACCL")
    assert len(readings) == 620 and times[200] == pytest.approx(1.001) and readings[200, 0] == 1
    assert times[-1] == pytest.approx(3.003 + 19 * 3.003 / 600)


def test_axes_are_put_in_order(shared_data):
    values = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    found = gpmf.parse(payload(values, axes="YxZ"))["ACCL"]
    assert found.axes == "YxZ" and np.allclose(found.values, [[-2.0, 1.0, 3.0], [-5.0, 4.0, 6.0]])
    assert gpmf.parse(payload(values))["ACCL"].axes == "", "a file that names no axes is left as it is"
    # A HERO6 also gives the matrix from its channels to Z, X, Y.
    data = members(shared_data("video_files") / "gpmf-payload-000000.tar")["payload-hero6_ble.raw"]
    start = data.index(b"MTRX") + 8
    matrix = np.frombuffer(data[start : start + 36], ">f4").reshape(3, 3)
    real = gpmf.parse(data)["ACCL"]
    plain = gpmf.parse(data.replace(b"ORIN", b"NONE"))["ACCL"]
    assert real.axes == "YxZ" and np.allclose(real.values[:, [2, 0, 1]], plain.values @ matrix.T)


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "empty"),
        (payload(np.zeros((4, 3)), axes="XXZ"), "decode"),
        (b"\x01\x02\x03\x04" * 4, "decode"),
        (payload(np.zeros((4, 3)))[:-6], "truncated"),
        (entry("SCAL", "s", 2, 1, b"\0\0") + entry("ACCL", "s", 6, 1, b"\0" * 6), "decode"),
        (entry("ACCL", "s", 2, 3, b"\0" * 6)[:-4] + b"\0" * 4, None),
    ],
)
def test_bad_payloads_are_named(data, reason):
    if reason is None:
        assert gpmf.parse(data)["ACCL"].values.shape == (3, 1)
        return
    with pytest.raises(ImuError) as caught:
        gpmf.parse(data)
    assert caught.value.reason == reason


def test_entries_cannot_nest_without_end():
    data = entry("ACCL", "s", 2, 1, b"\0\1")
    for _ in range(9):
        data = entry("STRM", "", 1, len(data), data)
    with pytest.raises(ImuError, match="deep"):
        gpmf.parse(data)


def test_files_without_telemetry_and_no_files(shared_data):
    files = members(shared_data("video_files") / "container-000000.tar")
    assert gpmf.track(files["rotate0.mov"]) == []
    with pytest.raises(ImuError, match="cannot be read"):
        gpmf.track(b"nonsense" * 20)
    with pytest.raises(ImuError, match="no GYRO"):
        gpmf.readings([(0.0, payload(np.zeros((4, 3))))], "GYRO")
