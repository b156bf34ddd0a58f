"""Jobs: on all processes, at their steps, before the checkpoint; their state is saved and no generator notices them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from foundation import plugins
from foundation.checkpoints import checkpoint
from foundation.engine.state import kept_random
from foundation.errors import RecipeError
from foundation.run.run_folder import RunFolder
from foundation.run.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
COUNTING = "tests.run.counting_job"
JOB = f"jobs=[{{name: {COUNTING}, every: 2 steps}}]"


@pytest.fixture(autouse=True)
def _trusted(monkeypatch):
    monkeypatch.setattr(plugins, "_allowed", {COUNTING})


def counts(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return checkpoint.read(folder / "checkpoints" / checkpoint.name_of(step), ("jobs",))[0]["jobs"]


def test_a_job_runs_at_its_steps_and_its_result_is_in_the_checkpoint_of_the_step(train, metrics, tiny_recipe, tmp_path):
    settings = ("checkpoints={every: 1 steps, keep_last: 20}", "train.length=5 steps")
    train(tiny_recipe(JOB, *settings), tmp_path / "with")
    train(tiny_recipe(*settings), tmp_path / "without")
    runs = [int(counts(tmp_path / "with", step)["counting_job.runs"]) for step in range(6)]
    assert runs == [1, 1, 2, 2, 3, 3]
    noted = [(line["step"], line["count/samples"]) for line in metrics(tmp_path / "with") if "count/runs" in line]
    assert noted == [(0, 40.0), (2, 40.0), (4, 40.0)]
    losses = [[line["loss"] for line in metrics(tmp_path / name) if "loss" in line] for name in ("with", "without")]
    assert losses[0] == losses[1]


def test_killed_between_job_and_checkpoint_it_runs_again(train, metrics, tiny_recipe, tmp_path, monkeypatch):
    settings = (JOB, "checkpoints={every: 2 steps, keep_last: 20}", "train.length=6 steps")
    train(tiny_recipe(*settings), tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        save = Trainer._save

        def killed(self, wait=False):
            if self.progress.step == 4:
                raise KeyboardInterrupt
            save(self, wait)

        patch.setattr(Trainer, "_save", killed)
        train(tiny_recipe(*settings), tmp_path / "cut")
    train(tiny_recipe(*settings), tmp_path / "cut")
    one, other = (counts(tmp_path / name, 6) for name in ("whole", "cut"))
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    figures = [[line for line in metrics(tmp_path / name) if "count/sum" in line] for name in ("whole", "cut")]
    assert figures[0] == figures[1]


def test_exports_on_the_way_load_as_models(train, tiny_recipe, tmp_path):
    train(tiny_recipe("jobs=[{name: export, every: 3 steps}]", "train.length=6 steps"), tmp_path / "run")
    exports = sorted(path.parent.name for path in (tmp_path / "run" / "export").glob("step-*/teacher.safetensors"))
    assert exports == ["step-00000003", "step-00000006"]
    from foundation.zoo.load import load_encoder

    card = json.loads((tmp_path / "run" / "export" / exports[0] / "teacher.json").read_text())
    loaded = load_encoder(tmp_path / "run" / "export" / exports[0] / "teacher.safetensors")
    kept = checkpoint.read(tmp_path / "run" / "checkpoints" / "step-00000003", ("teacher",))[0]["teacher"]
    assert card["step"] == 3
    assert all(torch.equal(value, kept[f"encoder.{key}"]) for key, value in loaded.encoder.state_dict().items())


def test_a_job_of_a_branch_that_is_not_there_is_refused_before_step_0(tiny_recipe, tmp_path):
    recipe = tiny_recipe("jobs=[{name: export, every: 3 steps, branch: nobody}]")
    with RunFolder(tmp_path / "run") as run, pytest.raises(RecipeError, match=r"'nobody'; there are: student, teacher"):
        Trainer(recipe, run, say=lambda text: None)


def test_every_generator_is_put_back():
    def draws():
        return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random(), random.gauss(0, 1)

    for generator in (torch.manual_seed, np.random.seed, random.seed):
        generator(3)
    expected = draws()
    for generator in (torch.manual_seed, np.random.seed, random.seed):
        generator(3)
    with pytest.raises(ZeroDivisionError), kept_random():
        draws()
        raise ZeroDivisionError
    assert draws() == expected


@pytest.mark.slow
@pytest.mark.fault(28, "a job of process 0 that takes longer than guard.stall_seconds, in a run of two processes")
def test_a_long_job_ends_no_run_of_several_processes(tiny_recipe_file, tmp_path, metrics, happened):
    settings = [f"jobs=[{{name: {COUNTING}, every: 2 steps, seconds: 16}}]", "guard.stall_seconds=10"]
    done = subprocess.run(
        [sys.executable, "-m", "foundation", "pretrain", str(tiny_recipe_file), "--processes", "2", "--run",
         str(tmp_path / "run"), "train.length=3 steps", "--allow-plugins", COUNTING, *settings],
        cwd=ROOT, capture_output=True, text=True, timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    noted = [line["count/samples"] for line in metrics(tmp_path / "run") if "count/samples" in line]
    assert noted == [20.0, 20.0]  # half of the 40, as process 0 has seen them
    assert not list((tmp_path / "run").glob("stalls/*.txt"))
    happened("the run goes on: all processes allow four times as long while a job runs")
