"""What objectives of one run share: targets, heads to average over, stores of samples."""

from __future__ import annotations

import pytest
import torch

from foundation.errors import UserError
from foundation.objectives import targets
from foundation.objectives.store import Stores
from foundation.run import build
from foundation.run.rehearsal import Rehearsal, random_batch

TWICE = (
    "objectives=[{name: dino}, {name: dino, weight: 0.5, student_temperature: 0.2}, {name: ibot}]",
    "encoder.drop_path=0",
)


def test_two_objectives_that_ask_for_the_same_targets_compute_them_once(tiny_recipe, monkeypatch):
    recipe = tiny_recipe(*TWICE)
    learner = Rehearsal(recipe, 4).learner
    assert isinstance(learner.objectives["dino-2"].target, targets.SharedTarget)
    assert not [key for key in learner.objectives.state_dict() if key.startswith("dino-2")]
    asked: list[int] = []
    learner.objectives["dino"].target.register_forward_hook(lambda *_: asked.append(1))
    batch = random_batch(recipe, 4)
    shared = learner(batch, 0).parts
    assert len(asked) == 1
    alone = Rehearsal(tiny_recipe(TWICE[0].replace("{name: dino}, ", ""), TWICE[1]), 4).learner
    assert torch.equal(shared["dino-2"], alone(batch, 0).parts["dino"])


def test_a_centre_that_is_shared_moves_once_a_step(tiny_recipe):
    batch = random_batch(tiny_recipe(), 4)
    centres = []
    for words in (TWICE, ("objectives=[{name: dino}, {name: ibot}]", TWICE[1])):
        learner = Rehearsal(tiny_recipe(*words), 4).learner
        for step in (0, 1):
            learner(batch, step)
        centres.append(learner.objectives["dino"].target.next_centre())
    assert torch.equal(*centres) and centres[0].any()


def test_other_temperatures_are_other_targets(tiny_recipe):
    recipe = tiny_recipe("objectives=[{name: dino}, {name: dino, teacher_temperature: 0.05}]")
    learner = Rehearsal(recipe, 4).learner
    assert not isinstance(learner.objectives["dino-2"].target, targets.SharedTarget)


@pytest.mark.slow
def test_a_run_with_shared_targets_that_goes_on_is_the_run_that_never_stopped(tiny_recipe, train, tmp_path):
    whole = train(tiny_recipe(*TWICE), tmp_path / "whole").learner.state_dict()
    train(tiny_recipe(*TWICE, "train.stop_after=3 steps"), tmp_path / "run")
    again = train(tiny_recipe(*TWICE), tmp_path / "run").learner.state_dict()
    assert whole.keys() == again.keys() and all(torch.equal(whole[key], again[key]) for key in whole)


def test_several_heads_are_averaged(tiny_recipe):
    second = "heads.wide={prototypes: 48, hidden: 32, bottleneck: 16}"
    batch = random_batch(tiny_recipe(), 4)

    def parts(objectives: str):
        return Rehearsal(tiny_recipe(second, f"objectives={objectives}", "encoder.drop_path=0"), 4).learner(batch, 0)

    both = parts("[{name: dino, heads: [cls, wide]}]")
    each = [parts(f"[{{name: dino, head: {name}}}]").loss for name in ("cls", "wide")]
    torch.testing.assert_close(both.loss, (each[0] + each[1]) / 2)
    assert "dino/entropy" in both.metrics
    with pytest.raises(UserError, match=r"no head called 'wode'; did you mean 'wide'"):
        build.learner(
            tiny_recipe(second, "objectives=[{name: dino, heads: [cls, wode]}]"),
            Rehearsal(tiny_recipe(), 4).learner.clock,
        )


def test_a_store_keeps_a_value_for_each_sample():
    stores = Stores(5)
    store = stores.open("clusters", (), torch.int64, fill=-1)
    store.write(torch.tensor([3, 0]), torch.tensor([7, 8]))
    assert store.read(torch.tensor([0, 1, 3])).tolist() == [8, -1, 7]
    assert stores.open("clusters", (), torch.int64) is store and list(stores.modules()) == ["clusters"]
    with pytest.raises(UserError, match=r"'clusters' holds \[\] torch.int64, and is asked for \[4\] torch.float32"):
        stores.open("clusters", (4,))
