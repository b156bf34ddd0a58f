"""Own recordings: read as declared, cut, and written so that they say themselves what they are."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from foundation.data.shards import open_shards
from foundation.errors import UserError
from foundation.modalities.imu.decode import Config

G = 9.80665


def recording(path, seconds: float = 4.0, rate: float = 25.0) -> np.ndarray:
    """A CSV as a logger writes it: milliseconds, degrees, g, other columns between."""
    times = np.arange(round(seconds * rate)) / rate
    motion = np.stack([np.sin(2 * np.pi * (0.5 + i) * times / 2) for i in range(6)], axis=1)
    motion[:, 2] += G
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ["t;battery;" + ";".join(f"{s}{a}" for s in ("gyro", "acc") for a in "XYZ")]
    rows += [
        f"{1000 * t:.3f};97;" + ";".join(f"{v:.9g}" for v in [*np.rad2deg(m[3:]), *(m[:3] / G)])
        for t, m in zip(times, motion, strict=True)
    ]
    path.write_text("\n".join(rows) + "\n")
    return motion


DECLARED = ["--columns", "accX,accY,accZ,gyroX,gyroY,gyroZ", "--time", "t", "--time-unit", "ms"]
DECLARED += ["--acceleration", "g", "--angular-velocity", "deg/s"]


def test_loggers_files_become_shards_that_need_no_settings(tmp_path, command):
    motion = {name: recording(tmp_path / "raw" / name) for name in ("walk/a.csv", "walk/b.csv", "rest/a.csv")}
    (tmp_path / "raw" / "rest" / "bad.csv").write_text("t;battery\n1;2\n")
    done = command("data", "build", "imu_folder", tmp_path / "out", "--root", tmp_path / "raw", *DECLARED)
    assert done.returncode == 0, done.stderr
    assert "1 missing\n    rest/bad.csv: csv: no column" in done.stderr
    shards = open_shards([str(tmp_path / "out" / "train-*.tar")])
    assert shards.num_samples == 3 and list(shards.classes) == ["rest", "walk"]
    decode = Config().build()
    for index in range(3):
        raw = shards.read(*shards.locate(index))
        sample, facts = decode(raw), json.loads(raw["json"])
        assert sample["label"] == ["rest", "walk"].index(facts["class"]) and abs(sample["imu_rate"] - 25) < 1e-3
        assert np.abs(sample["imu"].numpy() - motion[facts["path"]]).max() < 1e-4


def test_long_recordings_are_cut(tmp_path, read):
    motion = recording(tmp_path / "raw" / "a.csv", seconds=10.0)
    recording(tmp_path / "raw" / "b.csv", seconds=1.0)
    splits = read("imu_folder", "--root", str(tmp_path / "raw"), *DECLARED, "--window", "4", "--stride", "2")
    pieces = {sample["__key__"]: sample for sample in splits["train"]}
    assert sorted(pieces) == [f"a-w{n:04d}" for n in range(4)] and "cls" not in pieces["a-w0000"]
    for number in range(4):
        sample = pieces[f"a-w{number:04d}"]
        assert np.abs(np.load(io.BytesIO(sample["npy"])) - motion[50 * number : 50 * number + 100]).max() < 1e-4
        assert json.loads(sample["json"])["seconds"] == 2.0 * number


def test_some_channels_of_arrays(tmp_path, read):
    (tmp_path / "raw").mkdir()
    values = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    np.save(tmp_path / "raw" / "x.npy", values)
    words = ["--channels", "acc_x,acc_y,acc_z", "--columns", "5,6,7", "--rate", "20", "--no-gravity"]
    (sample,) = read("imu_folder", "--root", str(tmp_path / "raw"), *words)["train"]
    assert np.array_equal(np.load(io.BytesIO(sample["npy"])), values[:, 5:])
    facts = json.loads(sample["json"])
    assert facts["imu_channels"] == ["acc_x", "acc_y", "acc_z"] and facts["imu_gravity"] is False


@pytest.mark.parametrize(
    "words, match",
    [
        (["--window", "0"], "--window: 0 given; it must be above 0"),
        (["--stride", "1"], "give --window"),
        (["--acceleration", "ft"], "'ft'"),
        (["--columns", "a,b"], "2 columns for 6"),
    ],
)
def test_impossible_options_are_refused(tmp_path, read, words, match):
    recording(tmp_path / "a.csv")
    with pytest.raises(UserError, match=match):
        read("imu_folder", "--root", str(tmp_path), *words)


def test_nothing_spans_a_gap(tmp_path, read):
    motion = recording(tmp_path / "raw" / "a.csv", seconds=10.0)  # 250 readings
    rows = (tmp_path / "raw" / "a.csv").read_text().splitlines()
    (tmp_path / "raw" / "a.csv").write_text("\n".join(rows[:91] + rows[141:]) + "\n")  # 2 s are missing after 3.6 s
    for words, expected in (
        (["--window", "1"], {f"a-w{n:04d}": motion[25 * n : 25 * n + 25] for n in range(3)}),
        ([], {"a-p0000": motion[:90], "a-p0001": motion[140:]}),
        (["--max-gap", "3"], {"a": None}),
    ):
        pieces = {
            s["__key__"]: s for s in read("imu_folder", "--root", str(tmp_path / "raw"), *DECLARED, *words)["train"]
        }
        if words == ["--window", "1"]:
            assert len(pieces) == 3 + 4
            expected |= {f"a-w{3 + n:04d}": motion[140 + 25 * n : 165 + 25 * n] for n in range(4)}
            begins = [json.loads(pieces[key]["json"])["seconds"] for key in sorted(pieces)]
            assert begins == pytest.approx([0, 1, 2, 5.6, 6.6, 7.6, 8.6], abs=1e-3)
        assert set(pieces) == set(expected)
        for key, readings in expected.items():
            if readings is not None:
                assert np.abs(np.load(io.BytesIO(pieces[key]["npy"])) - readings).max() < 1e-4, key


def test_recordings_of_three_axes_are_read_as_they_were_built(tmp_path, capsys):
    from foundation.cli import main

    (tmp_path / "in").mkdir()
    rows = "".join(f"{n / 50:.2f},0.1,0.2,{9.8 + 0.01 * n % 0.1:.3f}\n" for n in range(300))
    (tmp_path / "in" / "phone.csv").write_text("time,acc_x,acc_y,acc_z\n" + rows)
    words = ["data", "build", "imu_folder", str(tmp_path / "out"), "--root", str(tmp_path / "in")]
    assert main([*words, "--channels", "acc_x,acc_y,acc_z"]) == 0
    assert main(["data", "verify", str(tmp_path / "out"), "--decode", "--workers", "1"]) == 0
    assert main(["data", "statistics", str(tmp_path / "out")]) == 0
    assert "mean: [0.1" in capsys.readouterr().out


def test_what_training_would_refuse_is_left_out_and_said(tmp_path, command):
    good = np.tile([0.1, 0.2, 9.8, 0.0, 0.0, 0.0], (200, 1))
    big = good.copy()
    big[100, 1] = 1e20  # a float32 holds it, and nothing can be calculated with it
    (tmp_path / "in").mkdir()
    for name, values in (("good", good), ("big", big)):
        rows = "".join(f"{row / 50}," + ",".join(map(repr, map(float, v))) + "\n" for row, v in enumerate(values))
        (tmp_path / "in" / f"{name}.csv").write_text("t,ax,ay,az,gx,gy,gz\n" + rows)
    done = command("data", "build", "imu-folder", tmp_path / "out", "--root", tmp_path / "in", "--window", "1")
    assert done.returncode == 0 and "1 not_finite" in done.stderr and "big-w0002" in done.stderr, done.stderr
    done = command("data", "verify", tmp_path / "out", "--decode")
    assert done.returncode == 0 and "7 samples" in done.stdout, done.stdout
    done = command("data", "build", "imu-folder", tmp_path / "short", "--root", tmp_path / "in", "--window", "0.1")
    assert done.returncode == 2 and "too_short" in done.stderr and not (tmp_path / "short").exists(), done.stderr
