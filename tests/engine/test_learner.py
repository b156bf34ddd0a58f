"""The learner computes the union of requests once, and each tensor is what a separate pass would give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundation.branches.request import Request
from foundation.counter import Draws
from foundation.run import build
from foundation.schedules import Clock
from foundation.types import Batch, View
from tests.encoders.inputs import inputs


@pytest.fixture
def recipe(tiny_recipe):
    return tiny_recipe("encoder.drop_path=0")


@pytest.fixture
def batch(recipe) -> Batch:
    generator = torch.Generator().manual_seed(0)
    views = {}
    for role, (count, shape) in recipe.views.roles.items():
        data = torch.randn(count * 4, *shape, generator=generator)
        ids = torch.arange(4).repeat(count)
        views[role] = View(data, "image", role, count, ids, torch.eye(2, 3).repeat(len(data), 1, 1))
    draws = Draws(0, np.zeros(4, np.int64), np.arange(4))
    coordinates = recipe.encoder.coordinates((16, 16))
    mask = recipe.masking.build()(coordinates, 2, draws, np.arange(4), 4, 0)
    return Batch(views, {("global", "masking"): mask}, tuple("abcd"), torch.full((4,), -1), 0, 4)


def test_requests_give_what_separate_passes_give(recipe, batch):
    branch = build.branches(recipe, Clock(10, 10))[0]["student"].eval()
    requests = (
        Request("student", "global", "cls", "cls", mask="masking"),
        Request("student", "local", "cls", "cls"),
        Request("student", "global", "masked", "cls", mask="masking"),
        Request("student", "global", "patches", mask="masking"),
        Request("student", "global", "cls", mask="masking"),
    )
    outputs = branch(batch, requests)
    mask = batch.masks["global", "masking"]
    seen = branch.encoder(inputs([batch.views["global"].data], [mask.masked]))[0]
    local = branch.encoder([batch.views["local"].data])[0]
    expected = (
        branch.heads["cls"](seen.cls),
        branch.heads["cls"](local.cls),
        branch.heads["cls"](seen.patches[mask.masked]),
        seen.patches,
        seen.cls,
    )
    for request, value in zip(requests, expected, strict=True):
        torch.testing.assert_close(outputs[request], value, atol=1e-5, rtol=1e-4)


def test_teachers_see_everything_and_get_no_gradient(recipe, batch):
    learner = build.learner(recipe, Clock(10, 10)).train()
    learner(batch, 0).loss.backward()
    assert all(p.grad is None for p in learner.branches["teacher"].parameters())
    assert all(p.grad is not None for p in learner.branches["student"].heads.parameters())
    assert learner.branches["student"].encoder.mask_token.grad is not None
    teacher = learner.branches["teacher"]
    request = Request("teacher", "global", "cls")
    unmasked = teacher.encoder([batch.views["global"].data])[0].cls
    torch.testing.assert_close(teacher(batch, [request])[request], unmasked)


def test_student_and_teacher_start_equal_and_part_after_a_step(recipe, batch):
    learner = build.learner(recipe, Clock(10, 10)).train()
    optimizer = recipe.optimizer.build(build.trainable(learner), Clock(10, 10), 4)
    teacher = learner.branches["teacher"]
    pairs = list(zip(teacher.parameters(), learner.branches["student"].parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    optimizer.apply_schedule(5)
    learner(batch, 5).loss.backward()
    optimizer.step()
    before = [a.clone() for a, _ in pairs]
    momentum = learner.update(5)["teacher_momentum"]
    for old, (new, student) in zip(before, pairs, strict=True):
        torch.testing.assert_close(new, momentum * old + (1 - momentum) * student)


def test_weights_scale_the_loss(tiny_recipe, batch):
    light = build.learner(tiny_recipe("encoder.drop_path=0"), Clock(10, 10)).eval()
    heavy = build.learner(tiny_recipe("encoder.drop_path=0", "objectives.2.weight=1.1"), Clock(10, 10)).eval()
    difference = heavy(batch, 0).loss - light(batch, 0).loss
    torch.testing.assert_close(difference, light(batch, 0).parts["koleo"], rtol=1e-3, atol=1e-4)


def test_figures_that_cost_something_are_left_out_unless_logged_or_looked_at(recipe, batch):
    learner = build.learner(recipe, Clock(10, 10)).train()
    monitor = learner.monitors["features"]
    monitor.samples, monitor.every = len(batch.views["global"].data), 4
    for step, watched, costly in ((0, False, True), (1, False, False), (2, True, True), (4, False, True)):
        metrics = learner(batch, step, watched).metrics
        assert ("features/std" in metrics) == (step % 4 == 0)
        for name in ("dino", "ibot"):
            assert {f"{name}/{key}" in metrics for key in ("entropy", "kl", "prototypes")} == {costly}
        assert "koleo/distance" in metrics and "dino/loss_global" in metrics


def test_a_token_that_there_is_not_is_refused(recipe):
    learner = build.learner(recipe, Clock(10, 10))
    learner.objectives["koleo"].requests = (Request("student", "global", "clss"),)  # type: ignore[arg-type]
    problems = learner.check(tuple(recipe.views.roles), {}, {})
    assert (
        "koleo",
        "needs the token 'clss'; did you mean 'cls'?; the recipe has: cls, patches, masked, visible, registers, cells",
    ) in problems
