"""Clouds, sound, sensors and films from the field: built, verified as training reads them, and trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foundation.cli import main
from foundation.data.shards import open_shards

SMALL = ["train.stop_after=2 steps", "train.batch_size=2", "train.log_every=1", "data.workers=0", "encoder.width=32"]
SMALL += ["encoder.depth=1", "encoder.heads=2", "data.shuffle_window=1", "optimizer.learning_rate.warmup=0 steps"]
HEADS = [
    "heads.cls={prototypes: 32, hidden: 32, bottleneck: 16}",
    "heads.patch={prototypes: 32, hidden: 32, bottleneck: 16}",
]


def built(tmp_path: Path, dataset: str, root: Path, *words: str) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Shards of a folder, which ``verify`` accepts, and their raw samples by key."""
    shards = tmp_path / "shards"
    assert main(["data", "build", dataset, str(shards), "--root", str(root), *words]) == 0
    report = tmp_path / "verify.json"
    assert main(["data", "verify", str(shards), "--decode", "--workers", "1", "--json", str(report)]) == 0
    assert json.loads(report.read_text())["errors"] == {}
    opened = open_shards([str(shards / "train-*.tar")])
    raws = [opened.read(*opened.locate(index)) for index in range(opened.num_samples)]
    return shards, {raw["__key__"]: raw for raw in raws}


def trained(tmp_path: Path, shards: Path, recipe: str, *words: str) -> None:
    """Two steps of a recipe, none of whose samples is bad."""
    run = tmp_path / "run"
    more = [f"data.shards=[{shards}/train-*.tar]", *SMALL, *words]
    assert main(["pretrain", recipe, *more, "--run", str(run)]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows} >= {1, 2}
    assert not any(row[name] for row in rows for name in row if "skipped" in name)


@pytest.mark.fault(22, "projected clouds of doubles, as NPY, text and PLY with 16-bit colours")
def test_projected_clouds(field_inputs, tmp_path, happened):
    from foundation.modalities.points.decode import decode

    shards, raws = built(tmp_path, "point_folder", field_inputs("projected_clouds"))
    assert set(raws) == {"float64", "text", "double_and_ushort_colours"}
    for raw in raws.values():
        sample = decode(raw)
        points = sample["points"].numpy()
        assert len(np.unique(points[:, 0])) > 1500, "17 before"
        there = points[:, :3] + sample["points_origin"]
        assert np.abs(there.min(axis=0) - [448262.123, 5411932.456, 120.0]).max() < 0.01
    colours = decode(raws["double_and_ushort_colours"])["points"][:, 3:6]
    assert (colours[:, 0] == 1).all() and not colours[:, 1:].any()
    trained(tmp_path, shards, "quickstart-points", *HEADS)
    happened("read with all their detail, colours from 0 to 1")


@pytest.mark.fault(21, "a WAV whose length was never filled in, and an M4A, beside a WAV")
def test_recordings(field_inputs, tmp_path, happened):
    from foundation.modalities.audio.decode import decode

    shards, raws = built(tmp_path, "audio_folder", field_inputs("recordings"))
    assert set(raws) == {"good", "streamed_length", "telephone"}
    good, streamed = decode(raws["good"]), decode(raws["streamed_length"])
    assert (good["audio"] == streamed["audio"]).all() and len(good["audio"]) == 16000
    assert abs(len(decode(raws["telephone"])["audio"]) - 20 * 1024) <= 2048
    trained(tmp_path, shards, "fsdd-mae-nano")
    happened("all three are read by build, verify and training")


@pytest.mark.fault(23, "a time twice, a gap of 3 s, and names with spaces and units in them")
def test_sensors(field_inputs, tmp_path, capsys, happened):
    shards, raws = built(tmp_path, "imu_folder", field_inputs("sensors"), "--window", "2")
    said = " ".join(capsys.readouterr().err.split())
    for text in (
        "1 readings whose time was there before are left out (first: reading 501 at 1700000010000000000 ns)",
        "3.02 s without a reading after reading 499 at 1700000009980000000 ns (max_gap = 0.5 s)",
    ):
        assert text in said, said
    for name in ("one_time_twice", "gap_of_3_s", "names_with_spaces"):
        windows = [raw for key, raw in raws.items() if key.startswith(name)]
        begins = sorted(json.loads(raw["json"])["seconds"] for raw in windows)
        assert len(windows) == 10 and begins[4] == pytest.approx(8.0, abs=0.05)
        # The gap lies between 9.98 and 13 s: no window has any of it.
        assert begins[5] == pytest.approx(13.0 if name == "gap_of_3_s" else 10.0, abs=0.05)
    trained(tmp_path, shards, "quickstart-imu", *HEADS)
    happened("windows skip the spot and the gap, which are named by row and time; columns and units are found")


def test_a_gap_is_as_long_as_the_user_says(field_inputs, tmp_path):
    _, raws = built(tmp_path, "imu_folder", field_inputs("sensors"), "--window", "2", "--max-gap", "4")
    assert sum(key.startswith("gap_of_3_s") for key in raws) == 11


@pytest.mark.fault(23, "a folder of tables none of which can be used")
def test_when_no_recording_can_be_used_the_reasons_are_told(tmp_path, capsys, happened):
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("volts,amperes\n" + "1,2\n" * 50)
    assert main(["data", "build", "imu_folder", str(tmp_path / "shards"), "--root", str(tmp_path)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "a.csv" in said and "no column acc_x, acc_y" in said and "columns: volts, amperes" in said, said
    happened("each reason is told with the columns there are")


@pytest.mark.fault(19, "a transport stream, whose seeking is not exact, and a film behind a cover picture")
def test_films(field_inputs, tmp_path, happened):
    from foundation.modalities.video.decode import Config, decode

    shards, raws = built(tmp_path, "video_folder", field_inputs("films"))
    assert set(raws) == {"transport_stream", "cover_picture_first", "plain"}
    plain = decode(raws["plain"], Config(max_frames=12))
    for raw in raws.values():
        film = decode(raw, Config(max_frames=12))
        assert tuple(film["video"].shape) == (12, 3, 96, 128)
        assert (film["video"].float() - plain["video"].float()).abs().mean() < 4, "the same moments"
        facts = json.loads(raw["json"])
        assert (facts["width"], facts["height"], facts["seconds"]) == (128, 96, 2.4)
    size = ["views.global_views.size=32", "views.global_views.frames=4", "encoder.size=[4, 32, 32]"]
    size += ["views.local_views.size=16", "views.local_views.frames=2", "encoder.preset=null", "masking.min_patches=1"]
    size += ["data.samples_per_epoch=null", "views.blur_sigma=[0.1, 1.0]"]
    trained(tmp_path, shards, "video-dino-ibot", *HEADS, *size)
    happened("both are read whole by build, verify and training")


def test_what_build_wrote_of_several_formats_verify_accepts(tmp_path, field_inputs):
    for name in ("plain.mp4", "transport_stream.ts"):
        data = (field_inputs("films") / name).read_bytes()
        for copy in ("a", "b") if name.endswith("mp4") else ("c",):
            (tmp_path / "in" / copy).mkdir(parents=True)
            (tmp_path / "in" / copy / f"{copy}{Path(name).suffix}").write_bytes(data)
    _, raws = built(tmp_path, "video_folder", tmp_path / "in")
    assert len(raws) == 3


def test_clouds_of_several_number_types_are_built_and_accepted(tmp_path):
    points = np.random.default_rng(0).random((3, 300, 3)) * 1000
    (tmp_path / "in").mkdir()
    for name, kind in (("a", "f4"), ("b", "f4"), ("c", "f4"), ("d", "f8"), ("e", "i8"), ("f", "f2")):
        np.save(tmp_path / "in" / name, points[ord(name) % 3].astype(kind))
    built(tmp_path, "point_folder", tmp_path / "in")
    assert json.loads((tmp_path / "verify.json").read_text())["warnings"] == {"shape": 3}
