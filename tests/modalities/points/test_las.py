"""LAS and LAZ: every kind of point is read, and no header takes the process along."""

from __future__ import annotations

import io
import struct
import subprocess
import sys

import numpy as np
import pytest

from foundation.data.boundary import decoded
from foundation.errors import SampleError
from foundation.modalities.points.decode import Config

laspy = pytest.importorskip("laspy")


def file_of(form: int = 2, points: int = 300, *, packed: bool, more: bool = False) -> bytes:
    header = laspy.LasHeader(point_format=form, version="1.4" if form > 5 else "1.2")
    if more:
        header.add_extra_dim(laspy.ExtraBytesParams(name="height", type=np.float32))
    las = laspy.LasData(header)
    las.x, las.y, las.z = np.random.default_rng(0).random((3, points))
    stream = io.BytesIO()
    las.write(stream, do_compress=packed)
    return stream.getvalue()


def changed(data: bytes, place: int, form: str, value: int) -> bytes:
    new = bytearray(data)
    struct.pack_into(form, new, place, value)
    return bytes(new)


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", [0, 1, 2, 3, 6, 7, 8])
def test_points_of_every_kind_are_read(form: int, packed: bool, more: bool) -> None:
    raw = {"__key__": "k", "__shard__": "s", "__id__": 0, "laz": file_of(form, packed=packed, more=more)}
    assert decoded(Config().build(), raw)["points"].shape[0] == 300


_DECODE = """
import sys
from pathlib import Path
from foundation.data.boundary import decoded
from foundation.errors import SampleError
from foundation.modalities.points.decode import Config
try:
    raw = {"__key__": "k", "__shard__": "s", "__id__": 0, "laz": Path(sys.argv[1]).read_bytes()}
    print(len(decoded(Config().build(), raw)["points"]))
except SampleError as error:
    print(error.reason)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) >> 10)  # of this program alone: getrusage counts the parent's before exec
"""


@pytest.mark.slow
@pytest.mark.fault(23, "LAS and LAZ whose headers claim billions of records, chunks or bytes of a point")
def test_what_a_las_header_claims_never_ends_the_process(tmp_path, happened):
    packed, plain, newer = file_of(packed=True), file_of(packed=False), file_of(7, packed=True)
    begin = struct.unpack_from("<I", packed, 96)[0]
    table = struct.unpack_from("<q", packed, begin)[0]
    laszip = packed.index(b"laszip encoded") - 2 + 54
    damaged = {
        "records": changed(plain, 100, "<I", 1 << 31),
        "extended records": changed(newer, 243, "<I", 1 << 31),
        "chunks": changed(packed, table + 4, "<I", 0xAA000001),
        "points of a chunk": changed(packed, laszip + 12, "<I", 0xFF00C350),
        "parts of a point": changed(packed, laszip + 34 + 8, "<H", 0x4300),
        "table behind the end": changed(packed, begin, "<q", 1 << 62),
    }
    said = {}
    for name, data in damaged.items():
        path = tmp_path / "cloud.laz"
        path.write_bytes(data)
        command = [sys.executable, "-c", _DECODE, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (name, done.stderr[-400:])
        said[name], megabytes = done.stdout.split()
        assert int(megabytes) < 1000, name
    assert (
        said.pop("points of a chunk") == "300"
    )  # an upper limit, which costs nothing where chunks are not read at once
    assert set(said.values()) <= {"truncated", "decode", "too_large"}
    happened(f"refused, and the process went on: {', '.join(sorted(said))}")


def test_a_panic_of_an_extension_is_one_bad_sample():
    panic = type("PanicException", (BaseException,), {})

    def decode(raw):
        raise panic("index out of bounds")

    with pytest.raises(SampleError, match="PanicException: index out of bounds"):
        decoded(decode, {"__key__": "k", "__shard__": "s", "__id__": 0})

    def interrupted(raw):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decoded(interrupted, {"__key__": "k", "__shard__": "s", "__id__": 0})
