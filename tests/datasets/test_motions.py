"""Made-up motions of a worn sensor: each wearer's attitude turns all axes together and changes nothing else."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from foundation.errors import UserError
from foundation.modalities.imu.decode import Config
from foundation.modalities.paired.scene import ACTIVITIES, Sensor, trajectory


def test_readings_are_those_of_the_motion_up_to_one_rotation(read):
    splits = read("motions", "--train", "24", "--test", "8")
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 24, "test": 8}
    times = (np.arange(200) + 0.5) / 50
    for sample in splits["train"]:
        number, label = int(sample["__key__"].split("-")[1]), int(sample["cls"])
        path = trajectory(ACTIVITIES[label], 4.0, 0, number, "motions.train")
        plain = Sensor(50.0, 0, number, "motions.train").record(path, times).reshape(-1, 3)
        turned = np.load(io.BytesIO(sample["npy"])).reshape(-1, 3)
        rotation, *_ = np.linalg.lstsq(plain, turned, rcond=None)
        assert np.allclose(plain @ rotation, turned, atol=1e-4)
        assert np.allclose(rotation.T @ rotation, np.eye(3), atol=1e-4) and np.linalg.det(rotation) > 0.99
        decoded = Config().build()({"__shard__": "", **sample})
        assert decoded["imu"].shape == (200, 6) and decoded["imu_rate"] == 50.0 and decoded["label"] == label


def test_wearers_carry_it_each_in_their_own_way(read):
    rows = read("motions", "--train", "160", "--test", "8", "--sway", "0")["train"]
    down: dict[int, list[np.ndarray]] = {}
    for sample in rows:
        facts, readings = json.loads(sample["json"]), np.load(io.BytesIO(sample["npy"]))
        if facts["activity"] in ("still", "shake"):
            felt = readings[:, :3].mean(0)
            down.setdefault(facts["wearer"], []).append(felt / np.linalg.norm(felt))
    several = [np.array(parts) for parts in down.values() if len(parts) > 1]
    assert several and all((parts @ parts[0]).min() > 0.95 for parts in several)  # a wearer is known by it
    first = np.array([parts[0] for parts in down.values()])
    assert np.linalg.norm(first.mean(0)) < 0.45  # and any attitude occurs


def test_impossible_options_are_refused(read):
    with pytest.raises(UserError, match="--sway"):
        read("motions", "--sway", "200")
