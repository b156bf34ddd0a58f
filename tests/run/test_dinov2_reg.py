"""DINOv2 with registers in small on real pictures: it lowers its loss and is better than the same untrained."""

from __future__ import annotations

import json

import pytest

from foundation.cli import main

SMALL = (
    "train.length=100 steps", "train.batch_size=32", "train.log_every=1", "train.precision=float32",
    "train.device=cpu", "data.workers=0", "encoder.width=64", "encoder.depth=2", "encoder.heads=2",
    "views.local_views.count=1", "heads.cls.hidden=128", "heads.patch.hidden=128", "heads.cls.prototypes=256",
    "heads.patch.prototypes=256", "branches.teacher.momentum={start: 0.9, end: 1.0}", "checkpoints.every=1000 steps",
)  # fmt: skip


@pytest.mark.slow
def test_it_learns(shared_data, metrics, tmp_path):
    data, run = shared_data("cifar10"), tmp_path / "run"
    words = [*SMALL, f"data.shards=['{data}/train-*.tar']", "--run", str(run)]
    assert main(["pretrain", "cifar10-dinov2-reg-nano", *words]) == 0
    values = [line["loss"] for line in metrics(run)]
    assert sum(values[-20:]) < 0.95 * sum(values[:20])
    probe = ["--train", f"{data}/train-000000.tar", "--test", f"{data}/test-000000.tar", "--limit", "1000"]
    words = [*probe, "--k", "10", "--baselines", "--workers", "0", "--no-cache", "--json", str(tmp_path / "knn.json")]
    assert main(["knn", str(run), *words]) == 0
    rows = json.loads((tmp_path / "knn.json").read_text())["results"]
    best = {name: max(r["top1"] for r in rows if r["name"] == name) for name in ("model", "untrained")}
    assert best["model"] > best["untrained"], best
