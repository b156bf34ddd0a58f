"""CIFAR-10 from tiny archives in the published layouts."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foundation.errors import UserError

Read = Callable[..., dict[str, list[dict[str, Any]]]]
TRAIN = [f"data_batch_{number}" for number in range(1, 6)]


def batch(seed: int, number: int = 3) -> tuple[np.ndarray, list[int]]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (number, 3072), dtype=np.uint8), random.integers(0, 10, number).tolist()


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as out:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


def python_archive(path: Path, doctored: object = None) -> Path:
    files = {}
    for seed, name in enumerate([*TRAIN, "test_batch"]):
        pixels, labels = batch(seed)
        # The published files are pickles of Python 2: protocol 2, bytes as keys.
        content = {b"data": pixels, b"labels": labels, b"filenames": [b"x.png"] * 3, b"batch_label": b"1"}
        if name == "data_batch_3" and doctored is not None:
            content[b"extra"] = doctored
        files[f"cifar-10-batches-py/{name}"] = pickle.dumps(content, protocol=2)
    return archive(path, files | {"cifar-10-batches-py/batches.meta": b"not needed"})


def binary_archive(path: Path) -> Path:
    files = {}
    for seed, name in enumerate([*TRAIN, "test_batch"]):
        pixels, labels = batch(seed)
        rows = np.concatenate([np.array(labels, dtype=np.uint8)[:, None], pixels], axis=1)
        files[f"cifar-10-batches-bin/{name}.bin"] = rows.tobytes()
    return archive(path, files)


def check(splits: dict[str, list[dict[str, Any]]]) -> None:
    assert {split: len(samples) for split, samples in splits.items()} == {"train": 15, "test": 3}
    for split, seeds in (("train", range(5)), ("test", [5])):
        pixels = np.concatenate([batch(seed)[0] for seed in seeds])
        labels = [label for seed in seeds for label in batch(seed)[1]]
        for sample, row, label in zip(splits[split], pixels, labels, strict=True):
            image = np.asarray(Image.open(io.BytesIO(sample["png"])))
            assert image[0, 1, 2] == row[2048 + 1] and image[31, 0, 0] == row[31 * 32]
            assert (image.transpose(2, 0, 1).reshape(-1) == row).all()
            assert sample["cls"] == str(label).encode()


@pytest.mark.parametrize("make", [python_archive, binary_archive])
def test_published_archives(tmp_path: Path, read: Read, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path / "cifar.tar.gz")
    check(read("cifar10", "--source", str(path)))
    with tarfile.open(path) as packed:
        for member in filter(tarfile.TarInfo.isfile, packed):  # extractall's filter is newer than Python 3.11.0
            (place := tmp_path / "unpacked" / member.name).parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(packed.extractfile(member).read())
    check(read("cifar10", "--source", str(tmp_path / "unpacked")))


def test_a_doctored_pickle_is_refused(tmp_path: Path, read: Read) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.mkdir, (str(tmp_path / "harm"),))

    path = python_archive(tmp_path / "cifar.tar.gz", Harm())
    with pytest.raises(UserError, match=r"data_batch_3: .*refused: it asks for (posix|nt)\.mkdir"):
        read("cifar10", "--source", str(path))
    assert not (tmp_path / "harm").exists()


def test_image_folders(tmp_path: Path, read: Read) -> None:
    for split, count in (("train", 4), ("test", 2)):
        for name in ("airplane", "frog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / split / name / f"{number:04d}.png")
    splits = read("cifar10", "--source", str(tmp_path))
    assert {split: sorted(sample["cls"] for sample in rows) for split, rows in splits.items()} == {
        "train": [b"0"] * 4 + [b"6"] * 4,
        "test": [b"0"] * 2 + [b"6"] * 2,
    }
    assert splits["test"][0]["png"] in {p.read_bytes() for p in (tmp_path / "test").rglob("*.png")}
    (tmp_path / "train" / "unicorn").mkdir()
    with pytest.raises(UserError, match="unknown classes unicorn"):
        read("cifar10", "--source", str(tmp_path))


def test_what_is_no_archive_is_said(tmp_path: Path, read: Read) -> None:
    (tmp_path / "half.tar.gz").write_bytes(binary_archive(tmp_path / "whole.tar.gz").read_bytes()[:2000])
    (tmp_path / "empty").mkdir()
    for name, words in (
        ("nowhere.tar.gz", "no such file"),
        ("half.tar.gz", "download it again"),
        ("empty", "holds neither"),
    ):
        with pytest.raises(UserError, match=words):
            read("cifar10", "--source", str(tmp_path / name))
    archive(tmp_path / "part.tar.gz", {"x/data_batch_1.bin": bytes(3073), "x/test_batch.bin": bytes(3073)})
    with pytest.raises(UserError, match=r"data_batch_2\.bin.*missing"):
        read("cifar10", "--source", str(tmp_path / "part.tar.gz"))
