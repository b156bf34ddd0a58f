"""V-JEPA 2 as a recipe: two mask rules of one clip in one pass, on real clips."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from foundation import config, paths
from foundation.cli import main
from foundation.encoders.protocol import EncoderInput
from foundation.run import build
from foundation.run.recipe import Recipe
from foundation.run.rehearsal import random_batch
from foundation.schedules import Clock
from tests.run.test_kill import ROOT

pytest.importorskip("av")

SMALL = (
    "views.global_views.size=24",
    "views.global_views.frames=8",
    "encoder.size=[8, 24, 24]",
    "encoder.width=32",
    "encoder.depth=2",
    "encoder.tokenizer.patch_size=4",
    "objectives.0.width=32",
    "objectives.0.depth=2",
)


def words(shards, folder, *settings: str) -> list[str]:
    """Of a run of 4 clips in a step."""
    everywhere = ("data.workers=0", "data.shuffle_window=16", "train.batch_size=4", "train.log_every=1", *SMALL)
    data = f"data.shards=['{shards}/train-*.tar']"
    return ["pretrain", "utd-depth-vjepa2-nano", data, *everywhere, *settings, "--run", str(folder)]


def test_a_small_variant_lowers_its_loss_on_real_clips(shared_data, tmp_path, metrics):
    settings = ("train.length=16 steps", "optimizer.learning_rate={start: 3e-3, warmup: 2 steps}")
    assert main(words(shared_data("utd_mhad_depth_imu"), tmp_path / "run", *settings)) == 0
    lines = metrics(tmp_path / "run")
    for name in ("loss", "jepa/loss_short", "jepa/loss_long"):
        values = [line[name] for line in lines]
        assert sum(values[-4:]) < 0.9 * sum(values[:4]), (name, values)
    assert (tmp_path / "run" / "export" / "teacher.safetensors").exists()


@pytest.mark.slow
def test_processes_and_micro_batches_give_the_losses_of_one(shared_data, tmp_path, metrics):
    """All rows are cut to the shortest of the global batch, wherever it is."""
    losses = {}
    for name, more in (("one", ()), ("processes", ("--processes", "2")), ("parts", ("train.accumulate=2",))):
        settings = ("train.length=4 steps", "train.precision=float32")
        line = [*words(shared_data("utd_mhad_depth_imu"), tmp_path / name, *settings), *more]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-m", "foundation", *line], env=environment, check=True, timeout=600)
        losses[name] = [step["loss"] for step in metrics(tmp_path / name)]
    assert losses["processes"] == pytest.approx(losses["one"], rel=1e-5)
    assert losses["parts"] == pytest.approx(losses["one"], rel=1e-5)


def test_the_student_sees_one_clip_under_both_rules_in_one_pass():
    recipe = config.load(Recipe, paths.recipe("utd-depth-vjepa2-nano"), SMALL)
    learner = build.learner(recipe, Clock(10, 1.0))
    batch = random_batch(recipe, 3)
    calls: dict[str, list[list[EncoderInput]]] = {"student": [], "teacher": []}
    for name, seen in calls.items():
        learner.branch(name).encoder.register_forward_pre_hook(lambda _, given, seen=seen: seen.append([*given[0]]))
    learner(batch, 0).loss.backward()
    ((whole,),), (twice,) = calls["teacher"], calls["student"]
    assert whole.mask is None
    short, long = (batch.masks["global", rule] for rule in ("short", "long"))
    assert [one.left_out for one in twice] == [short.hidden_per_row, long.hidden_per_row]
    assert short.hidden_per_row < long.hidden_per_row
    untouched = {name for name, p in learner.branches["student"].named_parameters() if p.grad is None}
    assert not untouched
    assert all(p.grad is None for p in learner.branches["teacher"].parameters())
    assert torch.isfinite(learner.objectives["jepa"].predictor.mask_token.grad).all()


@pytest.mark.slow
def test_the_reference_can_be_planned_without_data(capsys):
    assert main(["pretrain", "vjepa2", "--dry-run"]) == 0
    assert "parameters, objective jepa" in capsys.readouterr().out


def test_a_rule_that_is_not_there_is_refused_before_step_0(tmp_path, capsys):
    words = ["pretrain", "utd-depth-vjepa2-nano", "objectives.0.masks=[short, lung]", "--dry-run"]
    assert main([*words, "--run", str(tmp_path / "run")]) != 0
    assert "no mask rule called 'lung'" in capsys.readouterr().err
