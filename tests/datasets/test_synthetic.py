"""Synthetic pairs as shards: read back by the decoders without any setting."""

from __future__ import annotations

import json

import numpy as np
import pytest

from foundation.data.shards import open_shards
from foundation.errors import UserError
from foundation.modalities.imu import views as imu
from foundation.modalities.paired import clock
from foundation.modalities.paired.scene import ACTIVITIES, Sensor, trajectory
from foundation.modalities.paired.views import Config
from foundation.modalities.video import views as video


@pytest.mark.parametrize("frames", ["mp4", "npy"])
def test_pairs_are_built_and_read(tmp_path, command, frames):
    words = ["--train", 9, "--test", 8, "--seconds", 1.5, "--size", 32, "--frames", frames]
    done = command("data", "build", "synthetic", tmp_path / "out", *words)
    assert done.returncode == 0, done.stderr
    shards = open_shards([str(tmp_path / "out" / "train-*.tar")])
    assert shards.num_samples == 9 and list(shards.classes) == list(ACTIVITIES)
    views = Config(members={"video": video.Config(local_views=video.ClipConfig(count=2, size=16)), "imu": imu.Config()})
    decode = views.decode.build()
    for index in range(9):
        sample = decode(shards.read(*shards.locate(index)))
        assert sample["video"].shape == (15, 3, 32, 32) and sample["imu"].shape == (150, 6)
        assert clock.outside(clock.extents(sample)) < 1e-6
        number = int(sample["__key__"].rpartition("-")[2])
        path = trajectory(ACTIVITIES[sample["label"]], 1.5, 0, number, "train")
        wanted = Sensor(100.0, 0, number, "train").record(path, (np.arange(150) + 0.5) / 100)
        assert np.abs(sample["imu"].numpy() - wanted).max() < 1e-4
    labels = sorted(decode(shards.read(*shards.locate(p)))["label"] for p in range(9))
    assert set(labels) == set(range(8))


def test_samples_are_the_same_each_time_and_differ_between_splits(read):
    words = ("--train", "4", "--test", "4", "--seconds", "1", "--size", "16", "--frames", "npy")
    first, again = read("synthetic", *words), read("synthetic", *words)
    assert first == again and [s["imu.npy"] for s in first["train"]] != [s["imu.npy"] for s in first["test"]]
    other = read("synthetic", *words, "--seed", "1")
    assert other["train"][0]["video.npy"] != first["train"][0]["video.npy"]
    assert json.loads(first["train"][0]["json"])["imu_rate"] == 100.0


@pytest.mark.parametrize("words", [("--seconds", "60"), ("--size", "15"), ("--fps", "0"), ("--train", "0")])
def test_impossible_options_are_refused(read, words):
    with pytest.raises(UserError, match=words[0]):
        read("synthetic", *words)
