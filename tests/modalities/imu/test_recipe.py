"""The road from real windows of a phone to a probed export, by the public commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foundation.cli import main

SMALL = [
    "encoder.width=32",
    "encoder.depth=1",
    "heads.cls={prototypes: 32, hidden: 32, bottleneck: 16}",
    "heads.patch={prototypes: 32, hidden: 32, bottleneck: 16}",
    "train.batch_size=16",
    "train.log_every=1",
    "data.workers=0",
]


@pytest.mark.slow
def test_a_masked_autoencoder_tells_hidden_readings(shared_data, tmp_path: Path) -> None:
    data, run = shared_data("hapt_imu"), tmp_path / "run"
    words = [f"data.shards=[{data}/train-*.tar]", "train.stop_after=80 steps", "train.batch_size=32", "data.workers=0"]
    words += ["encoder.width=64", "encoder.depth=2", "train.log_every=20", "optimizer.learning_rate.warmup=0 steps"]
    assert main(["pretrain", "hapt-mae-nano", *words, "--run", str(run)]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    explained = [row["reconstruction/explained"] for row in rows if "reconstruction/explained" in row]
    assert explained[-1] > 0.2 and explained[-1] > explained[0] + 0.1
    probe = ["--train", f"{data}/train-000000.tar", "--test", f"{data}/test-*.tar", "--limit", "200", "--workers", "0"]
    result = tmp_path / "knn.json"
    assert main(["knn", str(run / "export" / "student.safetensors"), *probe, "--k", "5", "--json", str(result)]) == 0
    assert json.loads(result.read_text())["results"][0]["top1"] > 0.4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["imu-dino-ibot", "imu-mae"])
def test_reference_recipes_are_planned(name: str, capsys) -> None:
    assert main(["pretrain", name, "data.shards=[]", "--dry-run"]) == 0
    assert "parameters, encoder" in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["joint", "axis"])
def test_a_run_on_phones_is_exported_and_probed(shared_data, tmp_path: Path, layout: str, capsys) -> None:
    data, run = shared_data("hapt_imu"), tmp_path / "run"
    words = [f"data.shards=[{data}/train-*.tar]", "train.stop_after=3 steps", f"encoder.tokenizer.layout={layout}"]
    assert main(["pretrain", "hapt-dino-ibot-nano", *words, *SMALL, "--run", str(run)]) == 0
    card = json.loads((run / "export" / "teacher.json").read_text())
    assert card["modality"] == "imu" and card["evaluation"]["decode"]["acceleration"] == "g"
    probe = ["--train", f"{data}/train-000000.tar", "--test", f"{data}/test-*.tar", "--limit", "300", "--workers", "0"]
    export = str(run / "export" / "teacher.safetensors")
    result = tmp_path / "knn.json"
    assert main(["knn", export, *probe, "--k", "5", "--json", str(result)]) == 0
    assert json.loads(result.read_text())["results"][0]["top1"] > 0.5  # 6 classes; three steps of training
    assert main(["report", str(run), "--shards", f"{data}/test-*.tar", "--samples", "2"]) == 0
    assert (run / "report.html").stat().st_size > 20_000


def test_the_quickstart_needs_no_data(tmp_path: Path, capsys) -> None:
    shards, run = tmp_path / "shards", tmp_path / "run"
    assert main(["data", "build", "motions", str(shards), "--train", "48", "--test", "24"]) == 0
    small = [word for word in SMALL if not word.startswith("train.batch_size")] + ["train.batch_size=8"]
    words = [f"data.shards=[{shards}/train-*.tar]", "train.stop_after=2 steps", *small]
    assert main(["pretrain", "quickstart-imu", *words, "--run", str(run)]) == 0
    words = [str(run), "--train", f"{shards}/train-*.tar", "--test", f"{shards}/test-*.tar", "--workers", "0"]
    assert main(["knn", *words, "--k", "3", "--baselines"]) == 0
    said = capsys.readouterr().out
    assert "untrained" in said and "raw imu" in said
