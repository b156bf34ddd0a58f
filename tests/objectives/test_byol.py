"""BYOL against ATST's losses, and what it pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from foundation.errors import UserError
from foundation.heads import prototypes as heads
from foundation.objectives import byol
from foundation.schedules import Clock
from tests.objectives.contexts import context

CLOCK = Clock(10, 1.0)
HEAD = replace(byol.PREDICTOR, hidden=48, bottleneck=32)
HEADS = {"projector": HEAD}


def objective(**options):
    return byol.Config(predictor=None, **options).build(context(CLOCK, HEADS, 16))


def test_clip_loss_of_atst(golden, make_batch):
    data = golden("10_atst_losses")
    student = torch.from_numpy(data["input/clip/student"]).requires_grad_()
    built = objective()
    outputs = {built.student_requests[0]: student, built.teacher_request: torch.from_numpy(data["input/clip/teacher"])}
    result = built(outputs, make_batch(6, {"global": 2}), 0)
    assert result.loss.item() == pytest.approx(float(data["output/clip/loss"]), rel=1e-5)
    for name in ("std_student", "std_teacher"):
        assert result.metrics[name].item() == pytest.approx(float(data[f"output/clip/{name}"]), rel=1e-5)
    result.loss.backward()
    torch.testing.assert_close(student.grad, torch.from_numpy(data["grad/clip/student"]), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("name", "pairs"), [("frame_symmetric", "other"), ("frame_asymmetric", "same")])
def test_frame_loss_of_atst(golden, make_batch, name, pairs):
    data = golden("10_atst_losses")
    student = torch.from_numpy(data["input/frame/student"]).requires_grad_()
    masked = np.zeros((4, 20), bool)
    masked[:, :11] = True
    masked[[0, 2], 11] = True  # 23 frames of each view
    built = objective(token="masked", pairs=pairs)
    outputs = {built.student_requests[0]: student, built.teacher_request: torch.from_numpy(data["input/frame/teacher"])}
    result = built(outputs, make_batch(2, {"global": 2}, masked), 0)
    assert result.loss.item() == pytest.approx(float(data[f"output/{name}/loss"]), rel=1e-5)
    assert result.metrics["std_student"].item() == pytest.approx(float(data[f"output/{name}/std_student"]), rel=1e-5)
    result.loss.backward()
    torch.testing.assert_close(student.grad, torch.from_numpy(data[f"grad/{name}/student"]), rtol=1e-4, atol=1e-7)


def test_projector_of_atst(golden):
    data = golden("10_atst_losses")
    config = heads.Config(
        prototypes=None, hidden=48, bottleneck=20, layers=2, norm="batch", bias=False, activation="relu"
    )
    head = config.build(32)
    weights = {k.removeprefix("param/mlp/"): torch.from_numpy(v) for k, v in data.items() if k.startswith("param/mlp/")}
    head.mlp.load_state_dict(weights, strict=True)
    rows = torch.from_numpy(data["input/mlp/x"])
    torch.testing.assert_close(head.eval()(rows), torch.from_numpy(data["output/mlp/eval"]), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(head.train()(rows), torch.from_numpy(data["output/mlp/train"]), rtol=1e-4, atol=1e-6)
    assert config.outputs == 20


def test_more_views_are_the_mean_of_all_pairs(make_batch):
    built = objective(other_views=("local",))
    student, local, teacher = torch.randn(9, 32), torch.randn(6, 32), torch.randn(9, 32)
    outputs = dict(zip((*built.student_requests, built.teacher_request), (student, local, teacher), strict=True))
    terms = []
    for i in range(3):
        target = teacher[3 * i : 3 * i + 3]
        terms += [2 - 2 * F.cosine_similarity(student[3 * j : 3 * j + 3], target).mean() for j in range(3) if j != i]
        terms += [2 - 2 * F.cosine_similarity(local[3 * j : 3 * j + 3], target).mean() for j in range(2)]
    loss = built(outputs, make_batch(3, {"global": 3, "local": 2}), 0).loss
    torch.testing.assert_close(loss, torch.stack(terms).mean())


def test_only_the_student_is_predicted_and_collapse_shows(make_batch):
    built = byol.Config(predictor=HEAD).build(context(CLOCK, HEADS, 16))
    student, teacher = torch.randn(8, 32, requires_grad=True), torch.randn(8, 32)
    outputs = {built.student_requests[0]: student, built.teacher_request: teacher}
    result = built(outputs, make_batch(4, {"global": 2}), 0)
    result.loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in built.predictor.parameters()) and student.grad.abs().sum() > 0
    alike = {key: torch.ones(8, 32) + 1e-4 * torch.randn(8, 32) for key in outputs}
    assert built(alike, make_batch(4, {"global": 2}), 0).metrics["std_teacher"] < 0.01 < result.metrics["std_teacher"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: byol.Config(head="cls").build(context(CLOCK, HEADS, 16)), "heads of branch 'teacher' are: projector"),
        (lambda: byol.Config().build(context(CLOCK, HEADS, 16)), "same bottleneck"),
        (lambda: byol.Config(token="masked", other_views=("local",)), "other_views go with token: cls"),
        (lambda: byol.Config(predictor=replace(HEAD, prototypes=8)), "no prototypes"),
    ],
)
def test_mistakes_are_named(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_unequal_masks_and_lone_views(make_batch):
    built = objective(token="masked")
    outputs = {built.student_requests[0]: torch.randn(5, 32), built.teacher_request: torch.randn(5, 32)}
    with pytest.raises(UserError, match=r"masking\.shared"):
        built(outputs, make_batch(2, {"global": 2}), 0)
    with pytest.raises(UserError, match="two 'global' views"):
        built(outputs, make_batch(5, {"global": 1}), 0)
