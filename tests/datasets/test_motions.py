"""Strokes of a hand-held sensor: kinds that differ in their course, not in strength, tempo or attitude."""

from __future__ import annotations

import io

import numpy as np
import pytest

from foundation.data.build import load
from foundation.data.generated import Numbers
from foundation.modalities.imu.decode import Config

motions = load("motions").module
SHARE = np.linspace(0.0, 1.0, 2001)


def strength(kind: str, number: int) -> float:
    """Usual size of the angular velocity of a recording, rad/s: the median, so that knocks count for nothing."""
    return float(np.median(np.linalg.norm(motions.recording(kind, Numbers(0, number, "t"))[:, 3:], axis=1)))


def test_recordings_are_read_as_what_they_are(read):
    splits = read("motions", "--train", "24", "--test", "8")
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 24, "test": 8}
    for sample in splits["train"]:
        decoded = Config().build()({"__shard__": "", **sample})
        assert decoded["imu"].shape == (400, 6) and decoded["imu_rate"] == 50.0
        assert motions.KINDS[decoded["label"]] in sample["__key__"]
    felt = np.array([np.median(np.load(io.BytesIO(sample["npy"]))[:, :3], axis=0) for sample in splits["train"]])
    assert np.median(np.linalg.norm(felt, axis=1)) == pytest.approx(9.8, abs=0.7)  # gravity
    assert np.linalg.norm(felt.mean(0)) < 4  # held in any attitude


def test_every_kind_of_stroke_has_a_loudness_of_its_own():
    courses = [motions.loudness(kind, SHARE) for kind in motions.KINDS]
    assert all(loud.min() >= 0 and 0.5 < loud.max() <= 2 for loud in courses)
    assert len({loud.round(6).tobytes() for loud in courses}) == len(motions.KINDS) == 5


def test_strength_differs_more_between_recordings_than_between_kinds():
    sizes = {kind: np.log([strength(kind, number) for number in range(40)]) for kind in ("hum", "roll")}
    assert sizes["hum"].std() > 1.5 * abs(sizes["hum"].mean() - sizes["roll"].mean())


def test_knocks_are_short_stronger_than_strokes_and_elsewhere_in_every_recording():
    readings = np.zeros((2, 400, 6))
    for number in (0, 1):
        motions._knock(readings[number], 1.0, Numbers(0, number, "t"))
    hit = (readings != 0).any(axis=2)
    assert 0.02 < hit.mean() < 0.4 and not np.array_equal(*hit)
    assert np.linalg.norm(readings[..., :3], axis=2).max() > 2 * motions.FORCE
