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
