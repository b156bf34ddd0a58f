"""Videos with motion: tables beside them and telemetry inside, cut on one clock."""

from __future__ import annotations

import io
import json
import shutil
import tarfile

import numpy as np
import pytest

from foundation.data.shards import open_shards
from foundation.errors import UserError
from foundation.modalities.imu import views as imu
from foundation.modalities.paired import clock
from foundation.modalities.paired.views import Config
from foundation.modalities.video import views as video
from foundation.modalities.video.write import Writer

G = 9.80665
NAMES = ("accl_x", "accl_y", "accl_z", "gyro_x", "gyro_y", "gyro_z")


def film(path, seconds: float = 7.0, rate: float = 12.5) -> None:
    """A video whose frames bear their number in black and white fields, least bit first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = Writer(rate)
    for number in range(round(seconds * rate)):
        bits = np.array([(number >> bit) & 1 for bit in range(8)], np.uint8).reshape(2, 4) * 255
        writer.add(np.repeat(bits.repeat(24, 0).repeat(16, 1)[..., None], 3, axis=2), number / rate)
    path.write_bytes(writer.finish())


def numbers(frames) -> np.ndarray:
    """[T] what :func:`film` wrote on frames [T, 3, 48, 64]."""
    fields = frames.float().mean(1).numpy().reshape(-1, 2, 24, 4, 16).mean((2, 4)) > 128
    return fields.reshape(-1, 8) @ (1 << np.arange(8))


def table(path, begin: float = 0.0, seconds: float = 7.0, rate: float = 100.0) -> None:
    """Readings as Ego4D has them; the first channel is the time on the video's clock."""
    times = np.arange(round(seconds * rate)) / rate
    rows = ["canonical_timestamp_ms,gyro_x,gyro_y,gyro_z,accl_x,accl_y,accl_z"]
    rows += [f"{1000 * (begin + t):.4f},0,0,{0.1 * t:.6f},{t:.6f},0,{G}" for t in times]
    path.write_text("\n".join(rows) + "\n")


def decoded(folder) -> list[dict]:
    shards = open_shards([str(folder / "train-*.tar")])
    clips = video.Config(local_views=video.ClipConfig(count=2, size=16))
    decode = Config(members={"video": clips, "imu": imu.Config()}).decode.build()
    found = [(raw, decode(raw)) for raw in (shards.read(*shards.locate(p)) for p in range(shards.num_samples))]
    return [sample | {"facts": json.loads(raw["json"])} for raw, sample in sorted(found, key=lambda x: x[0]["__key__"])]


@pytest.mark.parametrize("offset", [0.0, 1000.25])
def test_clips_show_and_feel_the_same_moments(tmp_path, command, offset):
    film(tmp_path / "raw" / "cook" / "clip.mp4")
    table(tmp_path / "raw" / "cook" / "clip.csv", begin=offset)
    words = ["--root", tmp_path / "raw", "--seconds", 2, "--rate", 50, "--offset", offset]
    done = command("data", "build", "ego_video_imu", tmp_path / "out", *words)
    assert done.returncode == 0, done.stderr
    samples = decoded(tmp_path / "out")
    assert [s["__key__"] for s in samples] == ["cook-clip-c0000", "cook-clip-c0001", "cook-clip-c0002"]
    for number, sample in enumerate(samples):
        assert sample["label"] == 0 and sample["facts"]["class"] == "cook" and sample["imu"].shape == (100, 6)
        assert sample["video"].shape[0] == 25 and clock.outside(clock.extents(sample)) < 0.03
        told = 2 * number + sample["video_times"]
        assert np.abs(numbers(sample["video"]) / 12.5 - told).max() < 1e-3  # what the pixels say
        at = sample["imu_start"] + (np.arange(100) + 0.5) / 50
        error = np.abs(sample["imu"][:, 0].numpy() - (2 * number + at))
        assert error[3:-3].max() < 0.005 and abs(float(sample["imu"][50, 2]) - G) < 1e-3


def test_readings_that_begin_late_leave_out_the_clips_without_them(tmp_path, command):
    film(tmp_path / "raw" / "clip.mp4")
    table(tmp_path / "raw" / "clip.csv", begin=1.5, seconds=5.0)
    done = command(
        "data", "build", "ego_video_imu", tmp_path / "out", "--root", tmp_path / "raw", "--seconds", 2, "--rate", 50
    )
    assert done.returncode == 0, done.stderr
    assert [s["__key__"] for s in decoded(tmp_path / "out")] == ["clip-c0001", "clip-c0002"]


def test_telemetry_inside_a_real_file(tmp_path, shared_data, command):
    (tmp_path / "raw").mkdir()
    with tarfile.open(shared_data("video_files") / "gopro-000000.tar") as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    (tmp_path / "raw" / "karma.mp4").write_bytes(files["karma.mp4"])
    words = ["--root", tmp_path / "raw", "--seconds", 4, "--short-side", 32, "--fps", 5]
    done = command("data", "build", "ego_video_imu", tmp_path / "out", *words)
    assert done.returncode == 0, done.stderr
    samples = decoded(tmp_path / "out")
    assert len(samples) == 3
    reference = np.load(io.BytesIO(files["karma.accl.npy"]))
    for number, sample in enumerate(samples):
        assert 0 <= sample["facts"]["start_s"] - 4 * number < 1 / 29
        assert sample["facts"]["sensor"] == "gpmf" and sample["imu"].shape == (800, 6)
        assert sample["video"].shape == (20, 3, 32, 56) and clock.outside(clock.extents(sample)) < 0.06
        smooth = np.ones(11) / 11  # the propellers' hum lies at the limit of the rate
        agreement = {}
        for lag in (-0.01, 0.0, 0.01):
            at = sample["facts"]["start_s"] + sample["imu_start"] + (np.arange(800) + 0.5) / 200 + lag
            inside = (at > 0) & (at < 11.8)
            pairs = [
                (np.interp(at[inside], reference[:, 0], reference[:, 1 + axis]), sample["imu"][:, axis].numpy()[inside])
                for axis in range(3)
            ]
            pairs = [tuple(np.convolve(part, smooth, "valid") for part in pair) for pair in pairs]
            agreement[lag] = min(np.corrcoef(*pair)[0, 1] for pair in pairs)
        assert agreement[0.0] > 0.995 and max(agreement, key=agreement.get) == 0.0


def test_videos_without_readings_are_named(tmp_path, command):
    for name in ("good", "alone", "late", "gap"):
        film(tmp_path / "raw" / f"{name}.mp4", seconds=3.0)
    table(tmp_path / "raw" / "good.csv", seconds=3.0)
    table(tmp_path / "raw" / "late.csv", begin=-50.0, seconds=3.0)
    table(tmp_path / "raw" / "gap.csv", seconds=3.0)
    rows = (tmp_path / "raw" / "gap.csv").read_text().splitlines()
    (tmp_path / "raw" / "gap.csv").write_text("\n".join(rows[:50] + rows[250:]) + "\n")
    shutil.copy(tmp_path / "raw" / "good.csv", tmp_path / "raw" / "broken.csv")
    (tmp_path / "raw" / "broken.mp4").write_bytes(b"no video at all" * 20)
    done = command(
        "data", "build", "ego_video_imu", tmp_path / "out", "--root", tmp_path / "raw", "--seconds", 2, "--rate", 50
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0 and [s["__key__"] for s in decoded(tmp_path / "out")] == ["good-c0000"]
    for text in (
        "1 missing\n    alone.mp4: no alone{.csv,.parquet,.npy}",
        "1 conflict\n    late.mp4: the readings end",
        "1 gap\n    gap.mp4: ",
        "broken.mp4: the video cannot be read",
    ):
        assert text in said, said
    assert "left out: 4 files" in said  # the tables beside the videos are used


@pytest.mark.parametrize(
    "words, match",
    [(["--columns", "a,b"], "give six"), (["--seconds", "0"], "--seconds"), (["--rate", "-1"], "--rate")],
)
def test_impossible_options_are_refused(tmp_path, read, words, match):
    with pytest.raises(UserError, match=match):
        read("ego_video_imu", "--root", str(tmp_path), *words)
