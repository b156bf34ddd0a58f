"""iBOT against the published losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundation.branches.request import Request
from foundation.errors import UserError
from foundation.heads import prototypes as heads
from foundation.objectives import dino, ibot
from foundation.schedules import Clock, Schedule
from tests.objectives.contexts import context

CLOCK = Clock(100, 10.0)
HEADS = {"cls": heads.Config(prototypes=64), "patch": heads.Config(prototypes=48)}


def constant(value: float) -> Schedule:
    return Schedule(start=value, shape="constant")


def tensor(data, key):
    return torch.from_numpy(data[key])


@pytest.mark.parametrize("weight", ["default_weight", "given_weight", "custom_weight"])
def test_masked_loss_of_dinov2(golden, make_batch, weight):
    data = golden("04_dinov2_ibot_patch_loss")
    student = tensor(data, "input/forward_masked/student_logits").requires_grad_()
    batch = make_batch(3, {"global": 2}, data["input/masks"])
    torch.testing.assert_close(batch.masks["global", "masking"].weights, tensor(data, "input/masks_weight"))
    if weight == "custom_weight":
        object.__setattr__(
            batch.masks["global", "masking"], "weights", tensor(data, "input/forward_masked/custom_weight")
        )
    objective = ibot.Config(head="cls").build(context(CLOCK, {"cls": heads.Config(prototypes=student.shape[1])}, 8))
    objective.targets = lambda scores, temperature, step, over: scores  # the file gives probabilities
    teacher = tensor(data, "input/forward_masked/teacher_probs")
    outputs = {objective.student_request: student, objective.teacher_request: teacher}
    result = objective(outputs, batch, step=0)
    assert result.loss.item() == pytest.approx(float(data[f"output/forward_masked/{weight}"]), rel=1e-5)
    result.loss.backward()
    expected = tensor(data, f"grad/forward_masked/{weight}")
    torch.testing.assert_close(student.grad, expected, rtol=1e-4, atol=1e-7)


def test_dense_loss_of_dinov2(golden, make_batch):
    data = golden("04_dinov2_ibot_patch_loss")
    masks = torch.from_numpy(data["input/masks"])
    objective = ibot.Config().build(context(CLOCK, {"cls": heads.Config(prototypes=96)}, 8))
    objective.targets = lambda scores, temperature, step, over: scores
    outputs = {
        objective.student_request: tensor(data, "input/forward_dense/student_logits")[masks],
        objective.teacher_request: tensor(data, "input/forward_dense/teacher_probs")[masks],
    }
    loss = objective(outputs, make_batch(3, {"global": 2}, data["input/masks"]), step=0).loss
    assert loss.item() == pytest.approx(float(data["output/forward_dense/loss"]), rel=1e-5)


def ibot_step(data, call, make_batch, cls, patch, step, local=True):
    epoch = data["arg/epochs"][call]
    cls.config.teacher_temperature.__dict__["start"] = float(data["output/teacher_temp_schedule"][epoch])
    patch.config.teacher_temperature.__dict__["start"] = float(data["output/teacher_temp2_schedule"][epoch])
    masks = data[f"input/call{call}/masks"]  # [view, image, row, column]
    flat = masks.reshape(-1, masks.shape[2] * masks.shape[3])
    batch = make_batch(int(data["arg/batch"]), {"global": 2, "local": int(data["arg/nlcrops"])}, flat)
    leaves = {
        key: tensor(data, f"input/call{call}/{key}").requires_grad_()
        for key in ("student_cls", "student_patch", "student_local_cls")
    }
    outputs = {
        Request("teacher", "global", "cls", "cls"): tensor(data, f"input/call{call}/teacher_cls"),
        Request("student", "global", "cls", "cls", mask="masking"): leaves["student_cls"],
        Request("student", "local", "cls", "cls"): leaves["student_local_cls"],
        patch.student_request: leaves["student_patch"][torch.from_numpy(flat)],
        patch.teacher_request: tensor(data, f"input/call{call}/teacher_patch"),
    }
    return cls(outputs, batch, step), patch(outputs, batch, step), leaves


def objectives(data, **settings):
    common = {"teacher_temperature": constant(0.04)}
    momentum = float(data["arg/center_momentum"])
    cls = dino.Config(**common, centre_momentum=momentum, **settings)
    patch = ibot.Config(
        teacher_temperature=constant(0.04),
        head="patch",
        centre_over="all",
        centre_momentum=float(data["arg/center_momentum2"]),
    )
    return cls.build(context(CLOCK, HEADS, 8)), patch.build(context(CLOCK, HEADS, 8))


def test_three_calls_of_ibot(golden, make_batch):
    data = golden("04_ibot_loss")
    cls, patch = objectives(data)
    weights = float(data["arg/lambda1"]), float(data["arg/lambda2"])
    for call in range(3):
        one, two, leaves = ibot_step(data, call, make_batch, cls, patch, step=call)
        assert weights[0] * one.loss.item() == pytest.approx(float(data[f"output/call{call}/loss_cls"]), rel=1e-5)
        assert weights[1] * two.loss.item() == pytest.approx(float(data[f"output/call{call}/loss_patch"]), rel=1e-5)
        (weights[0] * one.loss + weights[1] * two.loss).backward()
        for key, leaf in leaves.items():
            torch.testing.assert_close(leaf.grad, tensor(data, f"grad/call{call}/{key}"), rtol=1e-4, atol=1e-7)
        for objective, name in ((cls, "center"), (patch, "center2")):
            after = tensor(data, f"output/call{call}/{name}_after").flatten()
            torch.testing.assert_close(objective.target.next_centre(), after, rtol=1e-5, atol=1e-6)


def test_ibot_without_local_views(golden, make_batch):
    data = golden("04_ibot_loss")
    cls, patch = objectives(data, other_views=())
    one, two, _ = ibot_step(data, 2, make_batch, cls, patch, step=0)
    prefix = "output/no_local_crops_same_inputs_as_last_call_fresh_centers"
    assert one.loss.item() == pytest.approx(float(data[f"{prefix}/loss_cls"]), rel=1e-5)
    assert 0.5 * two.loss.item() == pytest.approx(float(data[f"{prefix}/loss_patch"]), rel=1e-5)


@pytest.mark.parametrize("target", ["centering", "sinkhorn"])
def test_a_batch_without_masks_has_loss_zero_and_a_gradient(make_batch, target):
    objective = ibot.Config(target=target).build(context(CLOCK, {"cls": heads.Config(prototypes=6)}, 8))
    student = torch.zeros(0, 6, requires_grad=True)
    outputs = {objective.student_request: student, objective.teacher_request: torch.zeros(0, 6)}
    result = objective(outputs, make_batch(2, {"global": 2}, torch.zeros(4, 9, dtype=torch.bool).numpy()), step=0)
    result.loss.backward()
    assert result.loss.item() == 0.0 and student.grad is not None
    assert all(value.isfinite() for value in result.metrics.values())


def test_dividing_by_masked_rows_does_not_depend_on_unmasked_ones(make_batch):
    masked = torch.tensor([[True, False], [True, True], [False, False], [False, False]]).numpy()
    settings = {"teacher_temperature": constant(0.1)}
    by_rows = ibot.Config(**settings).build(context(CLOCK, {"cls": heads.Config(prototypes=6)}, 8))
    by_masked = ibot.Config(divide_by="masked_rows", **settings).build(
        context(CLOCK, {"cls": heads.Config(prototypes=6)}, 8)
    )
    outputs = {by_rows.student_request: torch.randn(3, 6), by_rows.teacher_request: torch.randn(3, 6)}
    batch = make_batch(2, {"global": 2}, masked)
    torch.testing.assert_close(by_masked(outputs, batch, 0).loss, 2 * by_rows(outputs, batch, 0).loss)


def test_all_patches_count_alike(make_batch):
    masked = np.zeros((4, 6), bool)
    masked[:, :2] = True
    objective = ibot.Config(over="all", teacher_temperature=constant(0.07)).build(context(CLOCK, HEADS, 8))
    student, teacher = torch.randn(4, 6, 64, requires_grad=True), torch.randn(4, 6, 64)
    assert {request.token for request in objective.requests} == {"patches"}
    result = objective(
        {objective.student_request: student, objective.teacher_request: teacher},
        make_batch(2, {"global": 2}, masked),
        0,
    )
    expected = -((teacher / 0.07).softmax(-1) * (student / 0.1).log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(result.loss, expected)
    result.loss.backward()
    assert (student.grad.abs().sum(-1) > 0).all()
    with pytest.raises(UserError, match="leave those keys out"):
        ibot.Config(over="all", divide_by="masked_rows")


def test_patches_that_were_seen_count_by_their_weight(make_batch):
    masked = np.zeros((4, 6), bool)
    masked[:3, :2] = True
    settings = {"teacher_temperature": constant(0.07)}
    objective = ibot.Config(over="all", visible_weight=0.25, **settings).build(context(CLOCK, HEADS, 8))
    student, teacher = torch.randn(4, 6, 64), torch.randn(4, 6, 64)
    outputs = {objective.student_request: student, objective.teacher_request: teacher}
    total = 0.0
    for row in range(4):
        for patch in range(6):
            target = (teacher[row, patch] / 0.07).softmax(0)
            loss = -(target * (student[row, patch] / 0.1).log_softmax(0)).sum()
            total += loss * (1.0 if masked[row, patch] else 0.25)
    torch.testing.assert_close(objective(outputs, make_batch(2, {"global": 2}, masked), 0).loss, total / 24)
    with pytest.raises(UserError, match="visible_weight needs over: all"):
        ibot.Config(visible_weight=0.5)
