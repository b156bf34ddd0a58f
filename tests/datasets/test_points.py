"""Data sets of point clouds: ModelNet in its published layouts, and folders of a person's own files."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foundation.data.shards import open_shards
from foundation.errors import UserError
from foundation.modalities.points.decode import decode

Read = Callable[..., dict[str, list[dict[str, Any]]]]
BOX = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float64)
SIDES = [[0, 1, 3, 2], [4, 5, 7, 6], [0, 1, 5, 4], [2, 3, 7, 6], [0, 2, 6, 4], [1, 3, 7, 5]]


def off(size: float, glued: bool = False) -> bytes:
    lines = ["OFF" + ("" if glued else "\n") + "8 6 0"]
    lines += [" ".join(f"{v * size:g}" for v in corner) for corner in BOX]
    lines += ["4 " + " ".join(map(str, side)) for side in SIDES]
    return "\n".join(lines).encode()


def meshes() -> dict[str, bytes]:
    files = {"ModelNet10/README.txt": b"hello", "__MACOSX/ModelNet10/bed/train/._bed_0001.off": b"\0"}
    for index, label in enumerate(("night_stand", "bed")):
        for number in range(1, 6):
            split = "train" if number < 4 else "test"
            size = 10 * (index + 1) + number
            files[f"ModelNet10/{label}/{split}/{label}_{number:04d}.off"] = off(size, glued=number == 2)
    return files


def resampled() -> dict[str, bytes]:
    files = {}
    random = np.random.default_rng(0)
    for label in ("airplane", "flower_pot"):
        for number in range(1, 4):
            rows = random.normal(size=(200, 6)).round(6)
            text = "\n".join(",".join(f"{v:.6f}" for v in row) for row in rows)
            files[f"m/{label}/{label}_{number:04d}.txt"] = text.encode()
    names = [name.rpartition("/")[2][:-4] for name in files]
    files["m/modelnet40_shape_names.txt"] = b"airplane\nflower_pot\n"
    files["m/modelnet40_train.txt"] = "\n".join(n for n in names if n[-1] != "3").encode() + b"\n"
    files["m/modelnet40_test.txt"] = "\n".join(n for n in names if n[-1] == "3").encode()
    return files


def lay(root: Path, files: dict[str, bytes], packed: bool) -> Path:
    if packed:
        path = root / "data.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    for name, data in files.items():
        (root / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "data" / name).write_bytes(data)
    return root / "data"


def array(sample: dict[str, Any]) -> np.ndarray:
    return np.load(io.BytesIO(sample["npy"]), allow_pickle=False)


@pytest.mark.parametrize("packed", [False, True])
def test_meshes_of_modelnet(tmp_path: Path, read: Read, packed: bool) -> None:
    splits = read("modelnet", "--source", str(lay(tmp_path, meshes(), packed)), "--points", "300")
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 6, "test": 4}
    for rows in splits.values():
        for sample in rows:
            label, number = sample["__key__"].rpartition("_")[::2]
            assert sample["cls"] == (b"0" if label == "bed" else b"1"), "alphabetical"
            points, size = array(sample), 10 * (1 + (label == "bed")) + int(number)
            assert points.shape == (300, 3) and points.dtype == np.float32
            assert points.min() >= 0 and points.max() == pytest.approx(size, rel=1e-5)
            on_a_side = np.isclose(points, 0, atol=1e-4) | np.isclose(points, size, rtol=1e-5)
            assert on_a_side.any(axis=1).all(), "on the surface, in the file's unit"


@pytest.mark.parametrize("packed", [False, True])
def test_resampled_modelnet(tmp_path: Path, read: Read, packed: bool) -> None:
    files = resampled()
    splits = read("modelnet", "--source", str(lay(tmp_path, files, packed)), "--points", "128")
    assert sorted(s["__key__"] for s in splits["test"]) == ["airplane_0003", "flower_pot_0003"]
    assert {s["__key__"]: s["cls"] for s in splits["train"]} == {
        "airplane_0001": b"0", "airplane_0002": b"0", "flower_pot_0001": b"1", "flower_pot_0002": b"1",
    }  # fmt: skip
    first = next(s for s in splits["train"] if s["__key__"] == "flower_pot_0002")
    expected = np.loadtxt(io.BytesIO(files["m/flower_pot/flower_pot_0002.txt"]), delimiter=",")[:128]
    np.testing.assert_allclose(array(first), expected, rtol=1e-6)


def test_damaged_shapes_are_left_out_and_named(tmp_path: Path, command: Callable[..., Any]) -> None:
    files = meshes()
    files["ModelNet10/bed/train/bed_0001.off"] = b"OFF\n8 6 0\n0 0 0\n"
    files["ModelNet10/bed/test/bed_0004.off"] = b""
    done = command("data", "build", "modelnet", tmp_path / "out", "--source", lay(tmp_path, files, True))
    assert done.returncode == 0, done.stderr
    assert "bed_0001.off: 1 lines, but 8 vertices and 6 faces are announced" in done.stderr
    assert "bed_0004.off: no bytes" in done.stderr
    test, shards = (open_shards([str(tmp_path / "out" / f"{split}-*.tar")]) for split in ("test", "train"))
    assert (test.num_samples, shards.num_samples, shards.classes) == (3, 5, ("bed", "night_stand"))
    raw = shards.read(*shards.locate(0))
    assert decode(raw)["points"].shape == (2048, 3) and decode(raw)["label"] in (0, 1)


def test_what_is_no_modelnet_is_said(tmp_path: Path, read: Read) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "half.zip").write_bytes(lay(tmp_path, meshes(), True).read_bytes()[:500])
    for name, words in (
        ("nowhere.zip", "no such file or folder"),
        ("half.zip", "no whole .zip archive"),
        ("empty", "neither meshes"),
    ):
        with pytest.raises(UserError, match=words):
            read("modelnet", "--source", str(tmp_path / name))
    with pytest.raises(UserError, match="at least 64"):
        read("modelnet", "--source", str(tmp_path / "data.zip"), "--points", "10")
    files = resampled()
    files["m/modelnet40_test.txt"] = b"../../secrets_0001\n"
    with pytest.raises(UserError, match="does not look like airplane_0001"):
        read("modelnet", "--source", str(lay(tmp_path, files, False)))


def npy(points: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, points)
    return stream.getvalue()


def test_a_folder_of_clouds(tmp_path: Path, command: Callable[..., Any]) -> None:
    clouds = np.random.default_rng(0).normal(size=(3, 100, 5)).astype(np.float32)
    files = {
        "train/car/a.npy": npy(clouds[0][:, :3]),
        "train/tree/b.pcd.bin": clouds[1].tobytes(),
        "test/car/c.bin": clouds[2][:, :4].tobytes(),
        "train/car/few.npy": npy(clouds[0][:20, :3]),
        "train/car/cut.off": b"OFF\n8 6 0\n",
        "train/car/notes.txt": b"not taken",
    }
    done = command("data", "build", "point-folder", tmp_path / "out", "--root", lay(tmp_path, files, False))
    assert done.returncode == 0, done.stderr
    for words in ("1 too_short", "few.npy: npy (368 bytes): 20 points; at least 64 are needed", "cut.off: ", "1 .txt"):
        assert words in done.stderr, done.stderr
    train = open_shards([str(tmp_path / "out" / "train-*.tar")])
    assert (train.num_samples, train.classes) == (2, ("car", "tree"))
    raws = {raw["__key__"]: raw for raw in (train.read(*train.locate(n)) for n in range(2))}
    by_path = {json.loads(raw["json"])["path"]: raw for raw in raws.values()}
    assert np.array_equal(decode(by_path["train/tree/b.pcd.bin"])["points"], clouds[1])
    facts = json.loads(by_path["train/car/a.npy"]["json"])
    assert (facts["points"], facts["columns"], facts["class"]) == (100, 3, "car")
    assert facts["extent"] == pytest.approx(np.ptp(clouds[0][:, :3], axis=0).tolist(), rel=1e-4)
    test = open_shards([str(tmp_path / "out" / "test-*.tar")])
    assert np.array_equal(decode(test.read(*test.locate(0)))["points"], clouds[2][:, :4])


def test_a_manifest_of_clouds(tmp_path: Path, read: Read) -> None:
    cloud = np.random.default_rng(0).normal(size=(90, 3)).astype(np.float32)
    root = lay(tmp_path, {"02691156-1a.npy": npy(cloud), "03001627-2b.npy": npy(cloud)}, False)
    (root / "list.csv").write_text("path,label,split\n02691156-1a.npy,airplane,train\n03001627-2b.npy,chair,test\n")
    splits = read("point_folder", "--csv", str(root / "list.csv"))
    assert {split: [s["cls"] for s in rows] for split, rows in splits.items()} == {"train": [b"0"], "test": [b"1"]}


def test_clouds_with_other_columns_than_most_are_told_when_they_are_built(tmp_path, command):
    for number in range(6):
        values = np.random.default_rng(number).normal(size=(64, 3 if number == 4 else 6)).astype(np.float32)
        (tmp_path / "in" / "a").mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "in" / "a" / f"{number}.npy", values)
    said = command("data", "build", "point_folder", str(tmp_path / "out"), "--root", str(tmp_path / "in"))
    assert "1 shape\n    a/4.npy: columns 3, most others have 6" in said.stderr
