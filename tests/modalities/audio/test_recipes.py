"""Every recipe of sound runs dry, and each kind trains on real recordings in small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from foundation import config, paths
from foundation.run.plan import plan
from foundation.run.recipe import Recipe

SMALL = ("train.device=cpu", "train.precision=float32", "data.workers=0", "train.log_every=1", "train.batch_size=8")
NANO = [
    "fsdd-dino-ibot-nano", "fsdd-asit-nano", "fsdd-atst-clip-nano", "fsdd-atst-frame-nano", "fsdd-mae-nano",
    "esc10-dino-ibot-nano",
]  # fmt: skip


def load(name: str, *overrides: str) -> Recipe:
    return config.load(Recipe, paths.recipes()[name], overrides)


@pytest.mark.parametrize(
    ("name", "preset", "millions"),
    [
        ("asit-base", "tiny", 5.5),
        ("atst-clip", "tiny", 5.5),
        ("atst-frame", "tiny", 5.5),
        pytest.param("asit-base", "base", 85.5, marks=pytest.mark.slow),
        pytest.param("atst-clip", "base", 85.4, marks=pytest.mark.slow),
        pytest.param("atst-frame", "base", 85.4, marks=pytest.mark.slow),
    ],
)
def test_reference_recipes_run_dry(name, preset, millions):
    recipe = load(name)
    assert recipe.encoder.preset == "base"
    figures = plan(load(name, f"encoder.preset={preset}"))
    assert figures.parameters["encoder"] / 1e6 == pytest.approx(millions, rel=0.02)
    assert figures.num_samples is None and figures.clock.total_steps >= 300_000


def test_reference_recipes_are_the_published_views():
    from foundation.modalities.audio.views import published

    for name, kind in (("asit-base", "asit"), ("atst-clip", "atst-clip"), ("atst-frame", "atst-frame")):
        ours, theirs = load(name).views, published(kind)
        assert ours.roles == theirs.roles and ours.resize == theirs.resize
        assert (ours.mixup, ours.roll, ours.same_segment) == (theirs.mixup, theirs.roll, theirs.same_segment)
        assert ours.front_end == theirs.front_end


@pytest.mark.parametrize("name", NANO)
def test_small_variants_train(name, shared_data, train, metrics, tmp_path: Path):
    data = shared_data("esc10" if name.startswith("esc10") else "fsdd")
    shards = f'data.shards=["{data}/train-000000.tar"]'
    trainer = train(load(name, shards, *SMALL, "train.stop_after=2 steps"), tmp_path / "run")
    assert trainer.progress.step == 2
    lines = [line for line in metrics(tmp_path / "run") if "loss" in line]
    assert len(lines) == 2 and all(np.isfinite(line["loss"]) for line in lines)
    branch = "student" if name == "fsdd-mae-nano" else "teacher"
    card = json.loads((tmp_path / "run" / "export" / f"{branch}.json").read_text())
    assert card["modality"] == "audio" and card["evaluation"]["front_end"]["rate"] == 8000


def test_export_is_measured_by_neighbours(shared_data, train, tmp_path: Path):
    from foundation.cli import main

    data = shared_data("fsdd")
    shards = f'data.shards=["{data}/train-000000.tar"]'
    train(load("fsdd-dino-ibot-nano", shards, *SMALL, "train.stop_after=1 steps"), tmp_path / "run")
    words = ["--train", f"{data}/train-000000.tar", "--test", f"{data}/test-000000.tar", "--limit", "200"]
    out = tmp_path / "knn.json"
    assert main(["knn", str(tmp_path / "run"), *words, "--workers", "0", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["modality"] == "audio" and result["data"]["test"]["samples"] == 200


def test_damaged_recordings_are_counted_and_replaced(train, metrics, tmp_path: Path):
    from foundation.data.shards import write_shards
    from tests.modalities.audio.conftest import encode, tone

    samples = []
    for number in range(24):
        data = encode(tone(0.5, 8000, 200.0 + 50 * number), 8000, "flac")
        samples.append({"__key__": f"s{number:02d}", "flac": data[: 200 if number == 3 else None]})
    samples.append({"__key__": "text", "wav": b"hello"})
    write_shards(samples, tmp_path / "shards", "train")
    shards = f'data.shards=["{tmp_path}/shards/train-*.tar"]'
    said: list[str] = []
    trainer = train(
        load("fsdd-mae-nano", shards, *SMALL, "train.length=1 epochs", "train.batch_size=5"), tmp_path / "run", said
    )
    # a substitute may be a bad one too
    assert set(trainer.progress.skipped) == {"truncated", "decode"} and trainer.progress.step == 5
    assert any("s03" in line or "text" in line for line in said), said


def test_schedules_are_those_of_atst(golden):
    from foundation.schedules import Clock, Duration, Schedule

    data = golden("10_atst_losses")
    schedule = Schedule(start=5e-4, end=1e-6, warmup=Duration(7, "steps"))
    np.testing.assert_allclose(schedule.values(60, Clock(60, 60.0)), data["output/schedule"], rtol=1e-9)
