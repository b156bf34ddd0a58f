"""From files to points: every format against numbers that are known, and everything that can be wrong with one."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from foundation.errors import REASONS, SampleError, UserError
from foundation.modalities.points.decode import Config, decode
from foundation.modalities.points.readers import PointError


def cloud(count: int = 80, columns: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, columns)).astype(np.float32)


def npy(array: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def text(array: np.ndarray, separator: str = " ") -> bytes:
    return "\n".join(separator.join(repr(float(v)) for v in row) for row in array).encode()


def ply(array: np.ndarray, layout: str = "binary_little_endian", names: str = "x y z", code: str = "float") -> bytes:
    header = f"ply\nformat {layout} 1.0\ncomment made here\nelement vertex {len(array)}\n"
    header += "".join(f"property {code} {name}\n" for name in names.split())
    header += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    order = ">" if layout == "binary_big_endian" else "<"
    body = text(array) + b"\n" if layout == "ascii" else array.astype(order + "f4").tobytes()
    return header.encode() + body + b"\x03\x00\x00\x00"


def off(vertices: np.ndarray, faces: list[list[int]], start: str = "OFF\n") -> bytes:
    head = f"{start}{len(vertices)} {len(faces)} 0\n"
    return (
        head + text(vertices).decode() + "\n" + "\n".join(f"{len(f)} {' '.join(map(str, f))}" for f in faces)
    ).encode()


CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float64)
SQUARES = [[0, 1, 3, 2], [4, 5, 7, 6], [0, 1, 5, 4], [2, 3, 7, 6], [0, 2, 6, 4], [1, 3, 7, 5]]


def read(name: str, data: bytes, config: Config | None = None, **more: bytes) -> dict:
    return decode({"__key__": "k1", "__shard__": "s.tar", "__id__": 3, name: data, **more}, config)


def refused(reason: str, name: str, data: bytes, config: Config | None = None) -> str:
    with pytest.raises(SampleError) as caught:
        read(name, data, config)
    assert (caught.value.shard, caught.value.key, caught.value.reason) == ("s.tar", "k1", reason), caught.value
    assert reason in REASONS and name in caught.value.detail
    return caught.value.detail


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("npy", npy(cloud())),
        ("npy", npy(np.asfortranarray(cloud().astype(np.float64)))),
        ("npz", npz(points=cloud())),
        ("npz", npz(anything=cloud())),
        ("ply", ply(cloud(), "ascii")),
        ("ply", ply(cloud())),
        ("ply", ply(cloud(), "binary_big_endian").replace(b"\n", b"\r\n", 1)),
        ("xyz", text(cloud())),
        ("txt", text(cloud(), ",")),
        ("pts", b"80\n" + text(cloud())),
        ("scan.npy", npy(cloud())),
    ],
)
def test_each_format_gives_the_same_points(name, data):
    sample = read(name, data, cls=b"7")
    assert sample["points"].dtype == torch.float32 and sample["label"] == 7 and sample["__id__"] == 3
    torch.testing.assert_close(sample["points"], torch.from_numpy(cloud()), rtol=1e-6, atol=1e-6)


def test_further_numbers_follow_the_coordinates():
    points, normals, colours = cloud(), cloud(seed=1), cloud(seed=2)
    joined = read("npz", npz(points=points, normals=normals, colors=colours))["points"]
    assert np.array_equal(joined, np.concatenate([points, normals, colours], 1))
    names = "intensity nz ny nx z y x"
    shuffled = np.concatenate([cloud(columns=1, seed=3), normals[:, ::-1], points[:, ::-1]], 1)
    ordered = read("ply", ply(shuffled, names=names))["points"]
    assert np.array_equal(ordered, np.concatenate([points, normals, shuffled[:, :1]], 1))
    header = b"ply\nformat binary_little_endian 1.0\nelement vertex 64\nproperty double x\nproperty double y\n"
    header += b"property double z\nproperty uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
    rows = b"".join(struct.pack("<ddd3B", i, 2 * i, 3 * i, i, 255, 0) for i in range(64))
    coloured = read("ply", header + rows)["points"]
    assert coloured[10].tolist() == pytest.approx([10, 20, 30, 10 / 255, 1, 0])


def test_scanners_binaries():
    kitti, nuscenes = cloud(100, 4), cloud(100, 5)
    assert np.array_equal(read("bin", kitti.tobytes())["points"], kitti)
    assert np.array_equal(read("pcd.bin", nuscenes.tobytes())["points"], nuscenes)
    assert np.array_equal(read("lidar.pcd.bin", nuscenes.tobytes())["points"], nuscenes)
    assert "100 bytes" not in refused("truncated", "bin", kitti.tobytes()[:-3])


@pytest.mark.parametrize("start", ["OFF\n", "OFF", "OFF\n# a comment\n"])
def test_meshes_become_points_spread_by_area(start):
    stretched = CUBE * [4.0, 1.0, 1.0]  # areas: two faces of 1, four of 4
    data = off(stretched, SQUARES, start)
    points = read("off", data, Config(surface_points=9000))["points"].numpy()
    assert points.shape == (9000, 3)
    ends = np.isclose(points[:, 0], 0) | np.isclose(points[:, 0], 4)
    assert abs(ends.mean() - 2 / 18) < 0.015
    other = points[~ends]
    assert np.isclose(other[:, 1:], np.round(other[:, 1:])).any(axis=1).all(), "every point lies on a face"
    assert np.histogram(other[:, 0], 4, (0, 4))[0].std() < 100, "even along a face"
    again = read("off", data, Config(surface_points=9000))["points"].numpy()
    assert np.array_equal(points, again), "the same file gives the same points"
    assert np.array_equal(read("off", off(cloud(70), []))["points"], cloud(70)), "no faces: the vertices"


def test_las_and_laz():
    laspy = pytest.importorskip("laspy")
    header = laspy.LasHeader(point_format=3, version="1.2")
    header.offsets, header.scales = [600_000.0, 5_000_000.0, 0.0], [0.001] * 3
    las = laspy.LasData(header)
    places = np.random.default_rng(0).uniform(0, 50, (200, 3)).round(3)
    las.x, las.y, las.z = places[:, 0] + 600_000, places[:, 1] + 5_000_000, places[:, 2]
    las.intensity = np.arange(200, dtype=np.uint16) * 100
    for name, packed in (("las", False), ("laz", True)):
        stream = io.BytesIO()
        las.write(stream, do_compress=packed)
        data = stream.getvalue()
        points = read(name, data)["points"].numpy()
        assert np.abs(points[:, :3] - (places - places.min(0))).max() < 1e-5, "millimetres survive large offsets"
        assert points[:, 3] == pytest.approx(np.arange(200) * 100 / 65535)
        with pytest.raises(SampleError) as caught:
            read(name, data[: len(data) // 2])
        assert caught.value.reason in ("truncated", "decode")
        refused("too_large", name, data, Config(max_points=150))
    refused("decode", "las", b"LASF" + bytes(50))
    refused("decode", "las", b"no LAS file at all")


def test_las_without_laspy_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "laspy", None)
    with pytest.raises(UserError, match=r"foundation-pretrain\[points\]"):
        read("las", b"LASF" + bytes(400))


class _Harm:
    pass


@pytest.mark.parametrize(
    ("reason", "name", "data"),
    [
        ("empty", "npy", b""),
        ("decode", "npy", b"\x93NUMPY"),
        ("decode", "npy", b"no array, just words"),
        ("truncated", "npy", npy(cloud())[:-10]),
        ("unsafe", "npy", npy(np.array([[_Harm()] * 3] * 80, object), allow_pickle=True)),
        ("shape", "npy", npy(cloud().reshape(-1))),
        ("shape", "npy", npy(cloud(columns=2))),
        ("shape", "npy", npy(cloud(columns=65))),
        ("shape", "npy", npy(np.full((80, 3), "a"))),
        ("not_finite", "npy", npy(np.where(np.arange(240).reshape(80, 3) == 100, np.nan, cloud()))),
        ("not_finite", "npy", npy(cloud().astype(np.float64) * 1e300)),
        ("too_short", "npy", npy(cloud(63))),
        ("too_short", "npy", npy(np.zeros((1000, 3)))),
        ("too_short", "npy", npy(np.zeros((0, 3)))),
        ("too_large", "npy", npy(cloud(1001))),
        ("decode", "npz", b"PK\x03\x04 and then nothing"),
        ("missing", "npz", npz(a=cloud(), b=cloud())),
        ("shape", "npz", npz(points=cloud(), normals=cloud(70))),
        ("too_large", "npz", npz(points=np.zeros((1_000_000, 3)))),
        ("decode", "ply", b"plx\nformat ascii 1.0\n"),
        ("decode", "ply", b"ply\nformat ascii 1.0\nelement vertex 3\n"),
        ("decode", "ply", ply(cloud(), "binary_middle_endian")),
        ("decode", "ply", b"ply\nformat ascii 1.0\nelement vertex " + b"9" * 5000 + b"\nend_header\n"),
        ("decode", "ply", b"ply\nformat ascii 1.0\nelement face 3\nelement vertex 70\nproperty float x\nend_header\n"),
        ("missing", "ply", ply(cloud(columns=2), names="x y")),
        ("truncated", "ply", ply(cloud())[:-200]),
        ("truncated", "ply", ply(cloud(), "ascii")[:-500]),
        ("too_large", "ply", ply(cloud()).replace(b"vertex 80", b"vertex 99999999999")),
        ("decode", "off", b"OOF\n1 0 0\n0 0 0"),
        ("decode", "off", b"OFF\nmany\n"),
        ("too_large", "off", b"OFF\n999999999 1 0\n"),
        ("truncated", "off", off(CUBE, SQUARES)[:-40]),
        ("corrupt", "off", off(CUBE, [[0, 1, 8]])),
        ("corrupt", "off", off(CUBE, [[0, 1, -2]])),
        ("shape", "off", off(CUBE * 0, SQUARES)),
        ("not_finite", "off", off(np.where(CUBE == 1, np.inf, CUBE), SQUARES)),
        ("decode", "txt", b"x,y,z\n" + text(cloud(), ",")),
        ("decode", "txt", text(cloud(columns=2))),
        ("decode", "txt", b"\n".join([text(cloud()), text(cloud(columns=4))])),
        ("truncated", "txt", text(cloud()) + b"\n0.5 0.5"),
        ("truncated", "pts", b"81\n" + text(cloud())),
        ("truncated", "bin", bytes(1601)),
    ],
)
def test_damaged_files_are_refused_with_a_reason(reason, name, data):
    detail = refused(reason, name, data, Config(max_points=1000))
    assert f"({len(data)} bytes)" in detail


def test_points_without_a_return_can_be_left_out():
    holes = cloud(100)
    holes[::10] = np.nan
    assert "10 of 100 points are not finite (first: point 0" in refused("not_finite", "npy", npy(holes))
    points = read("npy", npy(holes), Config(drop_not_finite=True))["points"]
    assert points.shape == (90, 3) and torch.isfinite(points).all()
    refused("too_short", "npy", npy(holes[:20]), Config(drop_not_finite=True))


def test_a_compressed_bomb_is_refused_before_it_is_unpacked():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("points.npy", bytes(50_000_000))
    assert len(stream.getvalue()) < 100_000
    assert "takes 50000000 bytes when unpacked" in refused(
        "too_large", "npz", stream.getvalue(), Config(max_points=9000)
    )


def test_damage_anywhere_raises_nothing_but_sample_errors():
    files = {
        "npy": npy(cloud()),
        "npz": npz(points=cloud()),
        "ply": ply(cloud()),
        "off": off(CUBE, SQUARES),
        "txt": text(cloud()),
    }
    random = np.random.default_rng(0)
    for name, whole in files.items():
        for _ in range(150):
            data = bytearray(whole[: random.integers(1, len(whole) + 1)])
            for place in random.integers(0, min(len(data), 200), random.integers(0, 4)):
                data[place] = random.integers(0, 256)
            try:
                points = read(name, bytes(data), Config(max_points=1000, surface_points=100))["points"]
                assert points.ndim == 2 and torch.isfinite(points).all()
            except SampleError as error:
                assert error.reason in REASONS


def test_missing_members_and_wrong_settings():
    with pytest.raises(SampleError, match=r"missing: no point cloud member \(members: jpg\)"):
        decode({"__key__": "k", "__shard__": "s", "jpg": b""})
    assert read("npy", npy(cloud()), Config(member="npy"), bin=b"x")["points"].shape == (80, 3)
    with pytest.raises(SampleError, match="no scan member"):
        read("npy", npy(cloud()), Config(member="scan"))
    assert "points have 4 numbers; 6 are needed" in refused("shape", "npy", npy(cloud(columns=4)), Config(columns=6))
    for settings, words in (
        ({"max_points": 0}, "max_points is 0"),
        ({"columns": 2}, "columns is 2"),
        ({"min_points": 50, "max_points": 20}, "more than"),
        ({"surface_points": -1}, "surface_points"),
    ):
        with pytest.raises(UserError, match=words):
            Config(**settings)
    assert PointError("shape", "x").reason == "shape"


def test_real_shapes(shared_data):
    with tarfile.open(shared_data("shapes16_points") / "test-000000.tar") as tar:
        members = {m.name: tar.extractfile(m).read() for m in list(tar)[:8]}
    key = next(iter(members)).partition(".")[0]
    sample = read("npy", members[f"{key}.npy"], cls=members[f"{key}.cls"])
    radius = sample["points"].norm(dim=1)
    assert sample["points"].shape == (2048, 3) and 0 <= sample["label"] < 16
    assert radius.max() == pytest.approx(1, abs=2e-3) and sample["points"].mean(0).abs().max() < 2e-3
