"""Stages: a run in parts, each going on from the last one's branches; killed in any of them it goes on bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from foundation import config
from foundation.checkpoints import checkpoint
from foundation.cli import main
from foundation.errors import RecipeError, UserError
from foundation.run import build
from foundation.run.recipe import Recipe
from foundation.run.run_folder import RunFolder
from foundation.run.stage import Stage
from foundation.run.trainer import Trainer
from foundation.schedules import Clock

ROOT = Path(__file__).resolve().parents[2]
STAGES = (
    "stages=[{name: first, length: 4 steps},"
    " {name: second, length: 5 steps, train: [heads, blocks.-1], objectives: [{name: dino}], masking: null,"
    " optimizer: {learning_rate: 1e-2, freeze_last_layer: 0 steps}}]"
)


def tensors(folder: Path, step: int, name: str) -> dict[str, torch.Tensor]:
    return checkpoint.read(folder / "checkpoints" / checkpoint.name_of(step), (name,))[0][name]


def digests(folder: Path) -> dict[str, str]:
    newest, _ = checkpoint.newest(folder / "checkpoints")
    assert newest is not None
    return {p.name: checkpoint.sha256(p) for p in sorted(newest.iterdir()) if p.suffix == ".safetensors"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_shards) -> Path:
    """A run of two stages, every step of which has left a checkpoint."""
    from tests.conftest import RECIPE

    settings = (STAGES, "checkpoints={every: 1 steps, keep_last: 20}")
    recipe = config.load(Recipe, RECIPE.format(shards=tiny_shards), settings)
    folder = tmp_path_factory.mktemp("stages") / "whole"
    with RunFolder(folder) as run:
        Trainer(recipe, run, say=lambda text: None).run()
    return folder


def test_a_stage_replaces_whole_keys(tiny_recipe):
    recipe = tiny_recipe(STAGES)
    first, second = recipe.stage(0), recipe.stage(1)
    assert (first.objectives, first.masking, first.train.only) == (recipe.objectives, recipe.masking, None)
    assert [type(one).__module__.rpartition(".")[2] for one in second.objectives] == ["dino"] and not second.masking
    assert second.train.only == ("heads", "blocks.-1") and second.train.length.steps is not None
    assert config.load(Recipe, config.dump(recipe)) == recipe
    assert tiny_recipe().stage(0) == tiny_recipe()


def test_steps_go_on_and_clocks_begin_anew(whole, metrics):
    lines = metrics(whole)
    assert [line["step"] for line in lines] == list(range(1, 10))
    assert [line["stage"] for line in lines] == [0.0] * 4 + [1.0] * 5
    assert lines[4]["epoch"] == pytest.approx(1 / 5) and "loss/ibot" not in lines[4]
    assert lines[4]["schedule/teacher_momentum"] == lines[0]["schedule/teacher_momentum"]
    names = [path.name for path in checkpoint.steps(whole / "checkpoints")]
    assert names == [checkpoint.name_of(step) for step in range(10)]
    state = json.loads((whole / "checkpoints" / "step-00000006" / "state.json").read_text())
    assert (state["stage"], state["begun"], state["position"]) == (1, 4, 16)


def test_what_no_pattern_means_is_frozen_and_without_moments(whole):
    before, after = (tensors(whole, step, "student") for step in (4, 9))
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    wanted = {name for name in after if name.startswith(("heads.", "encoder.trunk.blocks.1."))}
    assert moved <= wanted and any(name.startswith("heads.") for name in moved)
    assert any(name.startswith("encoder.trunk.blocks.1.") for name in moved)
    kept = tensors(whole, 9, "optimizer")
    assert kept and all(".heads." in f".{name}" or ".blocks.1." in name for name in kept)


def test_a_stage_begins_where_the_last_one_ended(whole, tiny_recipe, tmp_path):
    """Branches by name, the average with weights of its own; moments, centres and order of the samples anew."""
    recipe = tiny_recipe(STAGES, "checkpoints={every: 1 steps, keep_last: 20}")
    with RunFolder(tmp_path / "run") as run:
        trainer = Trainer(recipe, run, say=lambda text: None)
        for name, branch in trainer.learner.named_branches.items():
            branch.load_state_dict(tensors(whole, 4, name))
        second = Stage(
            trainer.parts[1], trainer.placement, run.path, print, dict(trainer.learner.named_branches.items())
        )
        for name, branch in second.learner.named_branches.items():
            kept = tensors(whole, 4, name)
            assert all(torch.equal(value, kept[key]) for key, value in branch.state_dict().items())
        student, teacher = (second.learner.branch(name).state_dict() for name in ("student", "teacher"))
        assert any(not torch.equal(value, teacher[key]) for key, value in student.items())
        assert not second.optimizer.adamw.state
        assert not any(value.any() for value in second.learner.objectives.state_dict().values())
        assert second.part.seed != trainer.parts[0].seed


@pytest.mark.parametrize("stop", [pytest.param(2, marks=pytest.mark.slow), 4, pytest.param(7, marks=pytest.mark.slow)])
def test_stopped_in_any_stage_it_goes_on_bit_for_bit(whole, train, metrics, tiny_recipe, tmp_path, stop):
    settings = (STAGES, "checkpoints={every: 1 steps, keep_last: 20}")
    train(tiny_recipe(*settings, f"train.stop_after={stop} steps"), tmp_path / "cut")
    torch.manual_seed(99)
    said: list[str] = []
    train(tiny_recipe(*settings), tmp_path / "cut", said)
    assert any(f"resuming from step-{stop:08d}" in line for line in said)
    assert digests(tmp_path / "cut") == digests(whole)
    assert [line["loss"] for line in metrics(tmp_path / "cut")] == [line["loss"] for line in metrics(whole)]


def _killed(recipe: Path, folder: Path, kills: int, *settings: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killing_ground.py")), str(recipe), str(folder), str(kills), "0",
         "steps", "data.workers=0", "checkpoints.every=2 steps", *settings],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + folder.with_suffix(".log").read_text()[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.fault(1, "kill -9 at 12 random steps of a run of two stages")
def test_killed_in_either_stage(tiny_recipe_file, metrics, tmp_path, happened):
    stages = STAGES.replace("4 steps", "14 steps").replace("5 steps", "16 steps")
    _killed(tiny_recipe_file, tmp_path / "whole", 0, stages)
    attempts = _killed(tiny_recipe_file, tmp_path / "killed", 12, stages)
    assert sum(attempt["exit"] == -9 for attempt in attempts) == 12
    assert any(attempt["from"] > 14 for attempt in attempts)
    one, other = (metrics(tmp_path / name) for name in ("whole", "killed"))
    assert [line["loss"] for line in one] == [line["loss"] for line in other]
    assert digests(tmp_path / "whole") == digests(tmp_path / "killed")
    happened("losses of both stages and the SHA-256 of every tensor file as in the run that was never killed")


def test_a_part_that_does_not_fit_is_refused_before_step_0(tiny_recipe, tmp_path):
    heads = "heads: {cls: {prototypes: 48, hidden: 32, bottleneck: 16}}"
    recipe = tiny_recipe(f"stages=[{{name: a}}, {{name: b, {heads}}}]")
    with (
        RunFolder(tmp_path / "run") as run,
        pytest.raises(RecipeError, match=r"stage 'b': branch 'student' goes on.*48, 16"),
    ):
        Trainer(recipe, run, say=lambda text: None)


def test_a_head_under_another_name_starts_anew(tiny_recipe, train, tmp_path):
    heads = "heads: {other: {prototypes: 48, hidden: 32, bottleneck: 16}}, objectives: [{name: dino, head: other}]"
    stages = f"stages=[{{name: a, length: 1 steps}}, {{name: b, length: 1 steps, masking: null, {heads}}}]"
    trainer = train(tiny_recipe(stages), tmp_path / "run")
    assert set(trainer.learner.branch("student").heads) == {"other"}


MISTAKES = """
stages:
  - name: one
    length: 2 steps
    train: [heads, blocks.-9]
  - name: two
    length: 2 steps
    train: []
  - name: three
    length: 2 steps
    masking: null
    objectives:
      - {name: dino}
      - {name: koleo, view: nowhere}
    jobs: [{name: export, every: 1 steps, branch: nobody}]
"""


@pytest.mark.slow
def test_all_mistakes_of_all_stages_come_at_once_with_file_and_line(tiny_recipe_file, tmp_path):
    tiny_recipe_file.write_text(tiny_recipe_file.read_text() + MISTAKES)
    text = tiny_recipe_file.read_text().splitlines()
    for words in (["--dry-run"], ["--run", str(tmp_path / "run")]):
        done = subprocess.run(
            [sys.executable, "-m", "foundation", "pretrain", str(tiny_recipe_file), *words],
            cwd=ROOT, capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        for line, said in (
            ("    train: [heads, blocks.-9]", "no parameter is meant by 'blocks.-9'"),
            ("    train: []", "nothing is trained"),
            ("      - {name: koleo, view: nowhere}", "nowhere"),
        ):
            number = text.index(line) + 1
            assert any(f"tiny.yaml:{number}: " in row and said in row for row in done.stderr.splitlines()), done.stderr


def test_a_job_without_an_interval_is_refused(tiny_recipe):
    with pytest.raises(UserError, match=r"missing required key 'jobs\.0\.every'"):
        tiny_recipe("jobs=[{name: export}]")
    with pytest.raises(UserError, match=r"jobs\.0\.every"):
        tiny_recipe("jobs=[{name: export, every: 0 steps}]")


def test_frozen_batch_norm_keeps_its_statistics(tiny_recipe, tmp_path):
    """A layer that is not trained must not drift by what it is shown."""
    recipe = tiny_recipe(
        "heads.cls.norm=batch", "train.only=[blocks.-1]", "checkpoints={every: 1 steps, keep_last: 20}"
    )
    with RunFolder(tmp_path / "run") as run:
        Trainer(recipe, run, say=lambda text: None).run()
    before, after = (tensors(tmp_path / "run", step, "student") for step in (0, 8))
    statistics = [name for name in after if "running" in name]
    assert statistics and all(torch.equal(before[name], after[name]) for name in statistics)
    assert any(not torch.equal(before[name], after[name]) for name in after)


def test_a_choice_of_the_whole_run_beside_stages_is_refused(tiny_recipe):
    with pytest.raises(UserError, match="give each stage its own train"):
        tiny_recipe(STAGES, "train.only=[heads]")


def test_mistakes_of_the_first_weights_are_no_mistakes_of_those_that_follow(tiny_recipe):
    """Also on the meta device, where a dry run builds."""
    recipe = tiny_recipe("initial={weights: 'timm:vit_tiny_patch16_224,random'}")
    with torch.device("meta"), pytest.raises(RecipeError, match="do not fit the encoder") as caught:
        build.learner(recipe, Clock(8, 8.0))
    assert [key for key, _ in caught.value.problems] == ["branches.student"]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ("objectives: []", "objectives is empty"),
        ("batch_size: 7, accumulate: 2", "train.batch_size 7 is not a multiple of accumulate 2"),
        ("branches: {stores: {name: ema}}", "'stores' cannot be a branch"),
        ("length: 50%", "train.length must be in epochs or steps"),
    ],
)
def test_a_stage_whose_keys_do_not_go_together_is_named_with_file_and_line(tiny_recipe_file, capsys, wrong, text):
    tiny_recipe_file.write_text(tiny_recipe_file.read_text() + f"stages:\n  - {{name: a}}\n  - {{name: b, {wrong}}}\n")
    line = len(tiny_recipe_file.read_text().splitlines())
    assert main(["pretrain", str(tiny_recipe_file), "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert f"{tiny_recipe_file}:{line}: stages.1: stage 'b': " in said and text in said


def test_what_a_later_stage_cannot_use_of_the_whole_recipe_is_named_where_it_stands(tiny_recipe_file, capsys):
    stages = "stages:\n  - {name: a}\n  - {name: b, heads: {other: {prototypes: 8}}, initial: null}\n"
    tiny_recipe_file.write_text(tiny_recipe_file.read_text() + stages)
    text = tiny_recipe_file.read_text().splitlines()
    assert main(["pretrain", str(tiny_recipe_file), "--dry-run"]) == 2
    said = capsys.readouterr().err
    for number, line in enumerate(("  - {name: dino}", "  - {name: ibot, target: sinkhorn}")):
        assert f"{tiny_recipe_file}:{text.index(line) + 1}: objectives.{number}: stage 'b': " in said


def test_how_often_the_data_is_seen_counts_each_stage_with_its_batch(tiny_recipe, train, tmp_path):
    said: list[str] = []
    stages = "stages=[{name: a, length: 1 steps}, {name: b, length: 1 steps, batch_size: 4}]"
    train(tiny_recipe(stages), tmp_path / "run", said)
    assert any("steps       2, the data 0.3 times" in line for line in said)  # 8 and 4 of 40 samples
