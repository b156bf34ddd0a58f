"""G2SD as a recipe: a masked autoencoder first, then a student of its decoder, on real pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from foundation import config, paths
from foundation.cli import main
from foundation.run import build
from foundation.run.recipe import Recipe
from foundation.schedules import Clock
from tests.run.test_kill import ROOT, assert_equal, tensors

RECIPE, FIRST, STEPS = "cifar10-g2sd-nano", 15, 25
SMALL = (
    f"stages.0.length={FIRST} steps", f"train.length={STEPS - FIRST} steps", "train.batch_size=16",
    "train.log_every=1", "train.precision=float32", "data.workers=0", "data.shuffle_window=64",
    "checkpoints={every: 5 steps, keep_last: 20}", "optimizer.learning_rate={start: 3e-3, warmup: 2 steps}",
    "stages.0.branches.teacher.encoder.width=64", "stages.0.branches.teacher.encoder.depth=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def settings(shared_data) -> tuple[str, ...]:
    return (*SMALL, f"data.shards=['{shared_data('cifar10')}/train-000000.tar']")


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("g2sd") / "run"
    assert main(["pretrain", RECIPE, *settings, "--run", str(folder)]) == 0
    return folder


def test_both_stages_lower_their_losses(whole, metrics):
    lines = metrics(whole)
    assert [line["step"] for line in lines] == [*range(1, STEPS + 1)]
    for name, some in (("reconstruction", lines[:FIRST]), ("feature_distillation", lines[FIRST:])):
        values = [line[f"loss/{name}"] for line in some]
        assert sum(values[-4:]) < 0.95 * sum(values[:4]), (name, values)


def test_the_teacher_of_the_second_stage_is_that_of_the_first_and_stands_still(whole):
    begun, trained, later = (tensors(whole, step, "teacher") for step in (5, FIRST, STEPS))
    assert any(name.startswith("heads.decoder.") for name in later)
    assert trained.keys() == later.keys() == begun.keys()
    assert all(torch.equal(trained[name], later[name]) for name in later)
    assert not all(torch.equal(trained[name], begun[name]) for name in later)


def test_the_student_begins_in_the_second_stage(whole):
    begun, before, after = (tensors(whole, step, "student") for step in (5, FIRST, STEPS))
    assert all(torch.equal(begun[name], before[name]) for name in begun)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert any(name.startswith("encoder.trunk") for name in changed) and any(
        "heads.decoder" in name for name in changed
    )


def test_stopped_in_the_second_stage_it_goes_on_bit_for_bit(whole, settings, tmp_path):
    folder = tmp_path / "run"
    stop = f"train.stop_after={FIRST + 3} steps"
    assert main(["pretrain", RECIPE, *settings, stop, "--run", str(folder)]) == 0
    assert main(["pretrain", str(folder)]) == 0
    assert_equal(folder, whole)


def test_processes_are_told_that_a_tapped_decoder_does_not_use_its_norm():
    """The published loss reads the student's decoder in front of its norm."""
    needed = []
    for tap in ("null", "decoder.block.0"):
        recipe = config.load(Recipe, paths.recipe(RECIPE), [f"objectives.0.tap={tap}"])
        previous, _ = build.branches(recipe.stage(0), Clock(10, 1.0))
        needed.append(build.learner(recipe.stage(1), Clock(10, 1.0), previous).may_leave_parameters_out)
    assert needed == [False, True]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(whole, settings, tmp_path, metrics):
    words = [sys.executable, "-m", "foundation", "pretrain", RECIPE, *settings, "--run", str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*words, "--processes", "2"], env=environment, check=True, timeout=600)
    one, two = ([line["loss"] for line in metrics(folder)] for folder in (whole, tmp_path / "run"))
    assert two == pytest.approx(one, rel=1e-5)


@pytest.mark.slow
def test_killed_in_either_stage_it_goes_on_bit_for_bit(whole, settings, tmp_path):
    folder = tmp_path / "run"
    words = [sys.executable, str(Path(__file__).with_name("killing_ground.py")), RECIPE, str(folder), "9", "0", "steps"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*words, *settings], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr + folder.with_suffix(".log").read_text()[-3000:]
    attempts = [json.loads(line) for line in done.stdout.splitlines()]
    assert [attempt["exit"] for attempt in attempts] == [-9] * 9 + [0]
    ends = [attempt["to"] for attempt in attempts[:-1]]
    assert min(ends) <= FIRST < max(ends), "killed in both stages"
    assert_equal(folder, whole)
