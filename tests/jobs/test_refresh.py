"""The anchor of Gram anchoring: set by a job at its steps, a few times, the same when a run goes on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from foundation.checkpoints import checkpoint
from foundation.errors import RecipeError
from foundation.run import stage
from foundation.run.build import placement
from foundation.run.run_folder import RunFolder
from foundation.run.trainer import Trainer

ANCHOR = "branches={teacher: {name: ema, momentum: 0.5}, gram: {name: previous, of: teacher, at: job}}"
SETTINGS = (
    ANCHOR,
    "objectives=[{name: dino, other_views: []}, {name: gram, weight: {start: 2.0, shape: constant, frozen: 3 steps}}]",
    "jobs=[{name: refresh, every: 2 steps, start: 3 steps, times: 2}]",
    "checkpoints={every: 1 steps, keep_last: 20}",
    "train.length=9 steps",
    "views.local_views.count=0",
    "encoder.depth=1",
)


def branches(folder: Path, step: int) -> tuple[dict[str, dict[str, torch.Tensor]], int]:
    """Encoders of teacher and anchor after a step, and how many copies were taken."""
    names = ("teacher", "gram", "jobs")
    found = checkpoint.read(folder / "checkpoints" / checkpoint.name_of(step), names)[0]
    return found, int(found["jobs"]["refresh.done"])


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


def test_it_is_what_the_teacher_was_at_the_steps_of_the_job(train, metrics, tiny_recipe, tmp_path):
    train(tiny_recipe(*SETTINGS), tmp_path / "run")
    found = [branches(tmp_path / "run", step) for step in range(10)]
    copied_at = {0: 0, 1: 0, 2: 0, 3: 0, 4: 4, 5: 4, 6: 6, 7: 6, 8: 6, 9: 6}
    for step, (parts, count) in enumerate(found):
        assert same(parts["gram"], found[copied_at[step]][0]["teacher"]), step
        assert count == (step >= 4) + (step >= 6)
        assert step in (0, 4, 6) or not same(parts["gram"], parts["teacher"])
    lines = metrics(tmp_path / "run")
    assert [line["refresh/gram"] for line in lines if "refresh/gram" in line] == [0, 1, 2, 2]
    with_gram, without = (  # what the frozen weight keeps out of the loss
        [line["loss"] - line["loss/dino"] for line in lines if "loss/gram" in line][part]
        for part in (slice(3, None), slice(0, 3))
    )
    assert all(abs(rest) < 1e-5 for rest in without) and all(rest > 1e-4 for rest in with_gram)


@pytest.mark.slow
def test_a_run_that_goes_on_takes_no_copy_too_many(train, tiny_recipe, tmp_path):
    whole = train(tiny_recipe(*SETTINGS), tmp_path / "whole")
    for stop in (4, 7):
        train(tiny_recipe(*SETTINGS, f"train.stop_after={stop} steps"), tmp_path / "parts")
    parts = train(tiny_recipe(*SETTINGS), tmp_path / "parts")
    assert same(whole.learner.state_dict(), parts.learner.state_dict())
    assert branches(tmp_path / "parts", 9)[1] == 2


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (("jobs=[]",), r"no job sets the branch 'gram': add \{name: refresh, branch: gram, every: ...\} to jobs"),
        (
            ("jobs=[{name: refresh, every: 2 steps, branch: gran}]",),
            "the branch 'gran' is not there; did you mean 'gram'?",
        ),
        (
            ("jobs=[{name: refresh, every: 2 steps, branch: teacher}]",),
            "'teacher' is not one that a job sets; those there are: gram",
        ),
    ],
)
def test_an_anchor_without_its_job_and_a_job_without_its_anchor_are_refused_before_step_0(tiny_recipe, settings, text):
    recipe = tiny_recipe(*SETTINGS, *settings)
    with pytest.raises(RecipeError) as caught:
        stage.check(recipe, stage.parts(recipe), placement(recipe))
    assert re.search(text.replace("?", r"\?"), str(caught.value))


@pytest.mark.slow
def test_the_next_stage_goes_on_with_the_anchor_as_it_is(tiny_recipe, tmp_path):
    stages = (
        "stages=[{name: anchor, length: 4 steps, jobs: [{name: refresh, every: 2 steps}]}, "
        "{name: larger, length: 3 steps, jobs: [{name: refresh, every: 100 steps}]}]"
    )
    recipe = tiny_recipe(ANCHOR, SETTINGS[1], stages, SETTINGS[3])
    with RunFolder(tmp_path / "run") as run:
        Trainer(recipe, run, say=lambda text: None).run()
    found = {step: branches(tmp_path / "run", step)[0] for step in (4, 7)}
    assert same(found[4]["gram"], found[4]["teacher"]) and same(found[7]["gram"], found[4]["teacher"])
    assert not same(found[7]["gram"], found[7]["teacher"])
