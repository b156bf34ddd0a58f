"""UCI HAR and HAPT in their published layouts."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from foundation.data.build import load
from foundation.errors import UserError
from foundation.modalities.imu.decode import Config

G = 9.80665
RANDOM = np.random.default_rng(0)


def text(path, table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, np.atleast_2d(table), fmt="%.7e" if np.asarray(table).dtype.kind == "f" else "%d")


def uci(root, windows: int = 6) -> dict:
    made = {}
    for split in ("train", "test"):
        signals = RANDOM.normal(size=(windows, 128, 6)) * 0.1
        signals[..., 0] += 1.0
        for column, name in enumerate(f"{kind}_{axis}" for kind in ("total_acc", "body_gyro") for axis in "xyz"):
            text(root / split / "Inertial Signals" / f"{name}_{split}.txt", signals[:, :, column])
        text(root / split / f"y_{split}.txt", np.arange(windows)[:, None] % 6 + 1)
        text(root / split / f"subject_{split}.txt", np.arange(windows)[:, None] + 20)
        made[split] = signals
    return made


def hapt(root) -> np.ndarray:
    raw = root / "RawData"
    recording = RANDOM.normal(size=(1000, 6)) * 0.1 + np.array([1, 0, 0, 0, 0, 0])
    for experiment, user in ((1, 1), (3, 2)):
        text(raw / f"acc_exp{experiment:02d}_user{user:02d}.txt", recording[:, :3])
        text(raw / f"gyro_exp{experiment:02d}_user{user:02d}.txt", recording[:, 3:])
    rows = [(1, 1, 5, 101, 400), (1, 1, 7, 401, 540), (1, 1, 4, 541, 600), (3, 2, 1, 201, 456), (9, 30, 1, 1, 300)]
    text(raw / "labels.txt", np.array(rows))
    return recording


def values(sample: dict) -> np.ndarray:
    return np.load(io.BytesIO(sample["npy"]))


def test_published_windows_keep_their_numbers_labels_and_split(tmp_path, read):
    wanted = uci(tmp_path / "UCI HAR Dataset")
    splits = read("uci_har", "--root", str(tmp_path / "UCI HAR Dataset"))
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 6, "test": 6}
    for split, rows in splits.items():
        for sample in rows:
            facts, number = json.loads(sample["json"]), int(sample["__key__"].rpartition("-")[2])
            assert np.allclose(values(sample) / [G, G, G, 1, 1, 1], wanted[split][number], atol=1e-5)
            assert facts["subject"] == number + 20 and sample["cls"] == str(number % 6).encode()
            decoded = Config(acceleration="g").build()({"__shard__": "", **sample})  # what json says goes before
            assert decoded["imu_rate"] == 50 and np.allclose(decoded["imu"].numpy(), values(sample))
    assert load("uci_har").module.ACTIVITIES[5] == "LAYING"


def test_raw_recordings_are_cut_inside_their_labelled_stretches(tmp_path, read):
    recording = hapt(tmp_path / "HAPT Data Set")
    splits = read("uci_har", "--root", str(tmp_path / "HAPT Data Set"))
    train = {sample["__key__"]: sample for sample in splits["train"]}
    assert sorted(train) == ["s01-e01-g0000-w00", "s01-e01-g0000-w01"]  # 300 readings hold two windows, 60 none
    assert {s["__key__"] for s in splits["test"]} == {"s02-e03-g0003-w00", "s02-e03-g0003-w01"}  # subject 2
    second = values(train["s01-e01-g0000-w01"]) / [G, G, G, 1, 1, 1]
    assert np.allclose(second, recording[228:356], atol=1e-5) and train["s01-e01-g0000-w01"]["cls"] == b"4"
    more = read("uci_har", "--root", str(tmp_path / "HAPT Data Set" / "RawData"), "--transitions", "--stride", "64")
    assert sorted(s["cls"] for s in more["train"]) == [b"4", b"4", b"4", b"6"]


def test_missing_recordings_are_reported_and_left_out(tmp_path, command):
    hapt(tmp_path / "raw")
    done = command("data", "build", "uci_har", tmp_path / "out", "--root", tmp_path / "raw")
    assert done.returncode == 0 and "acc_exp09_user30.txt" in done.stdout + done.stderr


def test_wrong_folders_are_explained(tmp_path, read):
    with pytest.raises(UserError, match="neither train/Inertial Signals"):
        read("uci_har", "--root", str(tmp_path))
    uci(tmp_path / "broken")
    (tmp_path / "broken" / "train" / "Inertial Signals" / "body_gyro_y_train.txt").unlink()
    with pytest.raises(UserError, match=r"body_gyro_y_train\.txt missing"):
        read("uci_har", "--root", str(tmp_path / "broken"))
    uci(tmp_path / "short")
    text(tmp_path / "short" / "train" / "y_train.txt", np.array([[1]]))
    with pytest.raises(UserError, match="6 windows, 1 labels"):
        read("uci_har", "--root", str(tmp_path / "short"))
