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
from foundation.modalities.points.tables import PointError


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


def pcd(array: np.ndarray, layout: str = "binary", code: str = "f4") -> bytes:
    """x, y, z; where packed, as literal runs alone, which any LZF reader must take."""
    size, kind = int(code[1]), code[0].upper()
    head = (
        f"# .PCD v0.7\nVERSION 0.7\nFIELDS x y z\nSIZE {size} {size} {size}\nTYPE {kind} {kind} {kind}\nCOUNT 1 1 1\n"
    )
    head += f"WIDTH {len(array)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(array)}\nDATA {layout}\n"
    if layout == "ascii":
        return head.encode() + text(array)
    if layout == "binary":
        return head.encode() + array.astype("<" + code).tobytes()
    plain = np.ascontiguousarray(array.T.astype("<" + code)).tobytes()
    runs = [plain[i : i + 32] for i in range(0, len(plain), 32)]
    packed = b"".join(bytes([len(run) - 1]) + run for run in runs)
    return head.encode() + struct.pack("<II", len(packed), len(plain)) + packed


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
        ("csv", b'\xef\xbb\xbf"X";"Y";"Z"\n' + text(cloud(), ";").replace(b".", b",")),
        ("asc", b"//X Y Z\n# and a word\n" + text(cloud())),
        ("txt", b"z,y,x\n" + text(cloud()[:, ::-1], ",")),
        ("pcd", pcd(cloud(), "ascii")),
        ("pcd", pcd(cloud())),
        ("pcd", pcd(cloud(), "binary", "f8")),
        ("pcd", pcd(cloud(), "binary_compressed")),
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
    las.red, las.blue = np.full(200, 65535, np.uint16), np.full(200, 13107, np.uint16)
    for name, packed in (("las", False), ("laz", True)):
        stream = io.BytesIO()
        las.write(stream, do_compress=packed)
        data = stream.getvalue()
        sample = read(name, data)
        points, there = sample["points"].numpy(), places + np.array([600_000, 5_000_000, 0])
        found = points[:, :3] + sample["points_origin"]
        assert np.abs(found - there).max() < 1e-5, "millimetres survive large offsets"
        assert points[:, 3] == pytest.approx(np.arange(200) * 100 / 65535)
        assert points[:, 4:7] == pytest.approx(np.array([65535, 0, 13107]) / 65535 + np.zeros((200, 1)))
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


# Range and precision


FAR_AWAY = np.array([448262.123, 5411932.456, 120.0])


def scan(count: int = 500) -> np.ndarray:
    """Half a metre of a projected scan, to the tenth of a millimetre."""
    return (FAR_AWAY + np.random.default_rng(1).uniform(0, 0.5, (count, 3))).round(4)


def ply_doubles(array: np.ndarray, layout: str) -> bytes:
    order = {"binary_little_endian": "<", "binary_big_endian": ">"}.get(layout)
    body = text(array) + b"\n" if order is None else array.astype(order + "f8").tobytes()
    names = "".join(f"property double {name}\n" for name in "xyz")
    return f"ply\nformat {layout} 1.0\nelement vertex {len(array)}\n{names}end_header\n".encode() + body


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("npy", npy(scan())),
        ("npy", npy(np.asfortranarray(scan()).astype(">f8"))),
        ("npz", npz(points=scan(), normals=cloud(500))),
        ("ply", ply_doubles(scan(), "ascii")),
        ("ply", ply_doubles(scan(), "binary_little_endian")),
        ("ply", ply_doubles(scan(), "binary_big_endian")),
        ("off", off(scan(), [])),
        ("xyz", text(scan())),
        ("txt", text(scan(), ",")),
        ("csv", b"x,y,z\n" + text(scan(), ",")),
        ("pts", b"500\n" + text(scan())),
        ("pcd", pcd(scan(), "ascii", "f8")),
        ("pcd", pcd(scan(), "binary", "f8")),
        ("pcd", pcd(scan(), "binary_compressed", "f8")),
    ],
)
def test_clouds_far_from_zero_keep_their_detail_in_every_format(name, data):
    sample = read(name, data)
    points, origin = sample["points"].numpy(), sample["points_origin"]
    assert origin.dtype == np.float64 and origin.shape == (3,) and np.abs(points[:, :3]).max() < 1.0
    assert np.abs(points[:, :3] + origin - scan()).max() < 1e-7, "a tenth of a micrometre"
    assert "__notes__" not in sample


def test_whole_numbers_and_stray_returns_keep_the_detail_too():
    millimetres = (scan() * 1000).round().astype(np.int64)
    sample = read("npy", npy(millimetres))
    assert np.array_equal(sample["points"].double().numpy() + sample["points_origin"], millimetres)
    stray = scan()
    stray[7] = 0.0  # a ray without a return
    sample = read("npy", npy(stray))
    there = np.arange(500) != 7
    assert np.abs(sample["points"].numpy() + sample["points_origin"] - stray)[there].max() < 1e-7


def test_a_mesh_far_from_zero_is_sampled_where_it_lies():
    near, far = read("off", off(CUBE, SQUARES)), read("off", off(CUBE + np.array([448262, 5411932, 0]), SQUARES))
    there = far["points"].numpy() + far["points_origin"]
    assert np.ptp(there, axis=0) == pytest.approx(np.ptp(near["points"].numpy(), axis=0), abs=0.02)
    assert len(np.unique(far["points"][:, 0])) > 2000


def test_clouds_near_zero_keep_their_numbers_to_the_bit():
    for array in (cloud(), cloud() * 50 + 400, np.abs(cloud()), cloud().astype(np.float16)):
        sample = read("npy", npy(array))
        assert np.array_equal(sample["points"].numpy(), array.astype(np.float32)) and not sample["points_origin"].any()
        assert "__notes__" not in sample


def test_detail_that_the_file_itself_has_lost_is_noted():
    for name, data in (
        ("npy", npy(scan().astype(np.float32))),
        ("npy", npy((scan() - FAR_AWAY + [100, 0, 0]).astype(np.float16))),
        ("npz", npz(xyz=scan().astype(np.float32))),
        ("ply", ply(scan())),
        ("pcd", pcd(scan())),
        ("bin", np.c_[scan(), np.zeros(500)].astype("<f4").tobytes()),
    ):
        (note,) = read(name, data, Config(min_points=2))["__notes__"]
        assert note.reason == "range" and "in steps of" in note.detail and "float64" in note.detail


COLOURED = "ply\nformat ascii 1.0\nelement vertex 64\n" + "".join(f"property float {name}\n" for name in "xyz")


@pytest.mark.parametrize(
    ("code", "written", "share", "noted"),
    [
        ("uchar", 51, 0.2, False),
        ("ushort", 13107, 0.2, False),
        ("uint", 858993459, 0.2, False),
        ("float", 0.2, 0.2, False),
        ("double", -0.2, -0.2, False),
        ("ushort", 51, 0.2, True),  # bytes in wider numbers
        ("float", 51, 0.2, True),
        ("double", 13107, 0.2, True),
    ],
)
def test_colours_of_any_type_become_shares(code, written, share, noted):
    head = COLOURED + "".join(f"property {code} {name}\n" for name in ("red", "green", "blue")) + "end_header\n"
    sample = read("ply", head.encode() + b"".join(b"%d 0 %d %g 0 0\n" % (i, i, written) for i in range(64)))
    assert sample["points"][:, 3].numpy() == pytest.approx(share) and not sample["points"][:, 4:].any()
    assert [note.reason for note in sample.get("__notes__", ())] == ["range"] * noted


def test_intensities_keep_one_scale():
    for kind, full in (("uchar", 255), ("ushort", 65535)):
        head = COLOURED + f"property {kind} scalar_Intensity\nend_header\n"
        for largest in (full, 200):
            sample = read("ply", head.encode() + b"".join(b"%d 0 %d %d\n" % (i, i, largest) for i in range(64)))
            assert sample["points"][:, 3].numpy() == pytest.approx(largest / full)
            assert [n.reason for n in sample.get("__notes__", ())] == ["range"] * (kind == "ushort" and largest == 200)


def test_colours_beside_points_and_in_tables_become_shares():
    for kind, full in ((np.uint8, 255), (np.uint16, 65535)):
        colours = np.full((80, 3), full, kind)
        assert (read("npz", npz(points=cloud(), colors=colours))["points"][:, 3:] == 1).all()
    rows = np.c_[cloud(), np.full((80, 3), [255, 0, 51])]
    sample = read("csv", b"x,y,z,R,G,B,class\n" + text(np.c_[rows, np.ones(80)], ","))
    assert sample["points"].shape == (80, 6) and sample["points"][5, 3:].tolist() == pytest.approx([1, 0, 0.2])
    fields = np.zeros(80, [("X", ">f8"), ("Y", ">f8"), ("Z", ">f8"), ("red", "u1"), ("name", "S3")])
    fields["X"], fields["Y"], fields["Z"] = cloud().T
    fields["red"] = 51
    sample = read("npy", npy(fields))
    assert sample["points"].shape == (80, 4) and sample["points"][5].tolist() == pytest.approx([*cloud()[5], 0.2])
    packed = np.zeros(80, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4")])
    packed["x"], packed["y"], packed["z"] = cloud().T
    packed["rgb"] = 255 << 16 | 51
    head = "# .PCD v.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F U\nWIDTH 80\nHEIGHT 1\nPOINTS 80\nDATA binary\n"
    assert read("pcd", head.encode() + packed.tobytes())["points"][5, 3:].tolist() == pytest.approx([1, 0, 0.2])


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
        ("missing", "txt", b"a,b,c\n" + text(cloud(), ",")),
        ("decode", "csv", b"x,y,z\n" + text(cloud(), ",") + b"\none,two,three"),
        ("decode", "pcd", b"# .PCD v0.7\nFIELDS x y z\n"),
        ("decode", "pcd", pcd(cloud()).replace(b"SIZE 4", b"SIZE 9")),
        ("decode", "pcd", pcd(cloud()).replace(b"DATA binary", b"DATA unheard_of")),
        ("truncated", "pcd", pcd(cloud())[:-9]),
        ("truncated", "pcd", pcd(cloud(), "binary_compressed")[:-9]),
        ("too_large", "pcd", pcd(cloud()).replace(b"POINTS 80", b"POINTS 99999999")),
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
        "pcd": pcd(cloud(), "binary_compressed"),
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


def test_packed_points_may_copy_what_came_before():
    from foundation.modalities.points.pcd import unpack

    assert unpack(bytes([1]) + b"ab" + bytes([5 << 5, 1]), 9) == b"ab" + b"abababa"
    assert unpack(bytes([0]) + b"a" + bytes([7 << 5, 3, 0, 0]) + b"z", 14) == b"a" * 13 + b"z"
    with pytest.raises(PointError, match="not there"):
        unpack(bytes([0]) + b"a" + bytes([1 << 5, 5]), 9)


def test_a_ply_that_ends_within_a_number_is_truncated():
    header = (
        b"ply\nformat ascii 1.0\nelement vertex 99\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    )
    whole = header + b"\n".join(b"%d.25 -2.5 -3.75" % number for number in range(99))
    assert len(read("ply", whole)["points"]) == 99, "the last line needs no end"
    for cut in (len("-3.75"), len("3.75")):  # the number is gone; its sign is left
        with pytest.raises(SampleError) as caught:
            read("ply", whole[:-cut])
        assert caught.value.reason == "truncated", whole[:-cut][-20:]
    with pytest.raises(SampleError, match="not a number"):
        read("ply", whole.replace(b"-2.5", b"-x", 1))
