"""POA as a run: it goes on exactly, processes share its sizes, mistakes are told before the first step, and the small
variants learn."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from foundation import config, paths
from foundation.cli import main
from foundation.encoders.elastic import SubNetwork
from foundation.errors import RecipeError
from foundation.run import build
from foundation.run.recipe import Recipe
from foundation.schedules import Clock
from tests.learning import learns
from tests.run.test_kill import ROOT

SMALL = ("train.batch_size=4", "data.workers=0", "train.log_every=1", "train.precision=float32", "encoder.width=32",
         "branches.elastic.widths=null", "heads.cls={prototypes: 16, hidden: 16, bottleneck: 8}",
         "heads.patch={prototypes: 16, hidden: 16, bottleneck: 8}")  # fmt: skip


def words(shards: str, folder: Path, *settings: str) -> list[str]:
    data = f"data.shards=['{shards}']"
    return ["pretrain", "cifar10-poa-nano", data, "train.length=4 steps", *SMALL, *settings, "--run", str(folder)]


@pytest.mark.slow
def test_a_run_goes_on_with_the_size_that_comes_next(tiny_shards, tmp_path, metrics):
    assert main(words(tiny_shards, tmp_path / "whole")) == 0
    assert main(words(tiny_shards, tmp_path / "halves", "train.stop_after=2 steps")) == 0
    assert main(words(tiny_shards, tmp_path / "halves")) == 0
    whole, halves = ([line for line in metrics(tmp_path / name) if "loss" in line] for name in ("whole", "halves"))
    names = ("loss", "gradient/norm", "schedule/elastic_width", "schedule/elastic_depth")
    assert [[line[name] for name in names] for line in whole] == [[line[name] for name in names] for line in halves]
    assert len({tuple(line[name] for name in names[2:]) for line in whole}) > 1
    for file in ("student", "teacher", "optimizer", "elastic"):
        both = [
            tmp_path / name / "checkpoints" / "step-00000004" / f"{file}.safetensors" for name in ("whole", "halves")
        ]
        assert both[0].read_bytes() == both[1].read_bytes(), file
    assert sorted(path.stem for path in (tmp_path / "whole" / "export").glob("*.json")) == ["student", "teacher"]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_unless_each_draws_for_itself(tiny_shards, tmp_path, metrics):
    found = {}
    plan = {"one": (), "processes": ("--processes", "2")}
    plan["own"] = ("--processes", "2", "branches.elastic.per_rank=true", "objectives.6.across_processes=false")
    for name, more in plan.items():
        line = [*words(tiny_shards, tmp_path / name, *(word for word in more if "=" in word))]
        line += [word for word in more if "=" not in word]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-m", "foundation", *line], env=environment, check=True, timeout=600)
        found[name] = [step["loss"] for step in metrics(tmp_path / name) if "loss" in step]
    assert found["processes"] == pytest.approx(found["one"], rel=1e-5)
    assert found["own"][0] != pytest.approx(found["one"][0], rel=1e-5)


@pytest.mark.parametrize("settings, mistakes", [
    (["branches.elastic.widths=[48, 128]"],
     ["branches.elastic: sub-network w48-d2: width 48 is no whole number of heads of 32: the encoder has the widths"]),
    (["branches.elastic.depths=[4, 9]"], ["sub-network w64-d9: the encoder has depths from 1 to 4, not 9"]),
    (["branches={teacher: {name: ema}}"],
     ["dino-2: there is no branch 'elastic'; the recipe's are: student, teacher",
      "same_view: there is no branch 'elastic'", "koleo-2: there is no branch 'elastic'"]),
    (["branches.elastic.per_rank=true"],
     ["koleo: processes have features of branch 'elastic' of different widths (per_rank)"]),
])  # fmt: skip
def test_what_cannot_be_sliced_is_refused_before_the_first_step(settings, mistakes):
    recipe = config.load(Recipe, paths.recipe("cifar10-poa-nano"), settings)
    with pytest.raises(RecipeError) as caught:
        build.learner(recipe, Clock(10, 1.0))
    for text in mistakes:
        assert text in str(caught.value)


SHORT = "optimizer.learning_rate={start: 1e-3, end: 1e-5, warmup: 10%}"


@pytest.mark.slow
@pytest.mark.parametrize("recipe, data, steps, votes", [
    ("cifar10-poa-nano", "cifar10", 60, 600),
    ("fsdd-poa-nano", "fsdd", 40, 600),
    # 600 labelled windows tell 82 % of the postures behind an untrained stem of this width, too: fewer leave room.
    ("hapt-poa-nano", "hapt_imu", 160, 200),
])  # fmt: skip
def test_a_small_variant_learns_whole_and_cut_out(recipe, data, steps, votes, shared_data, tmp_path):
    settings = (f"train.length={steps} steps", "train.batch_size=32", SHORT)
    sizes = (SubNetwork(64, (2,)),)
    found = learns(recipe, shared_data(data), tmp_path / "run", *settings, sizes=sizes, limit=votes)
    assert found.keys() == {"whole", "w64-d2"}
