"""DINO against the published losses."""

from __future__ import annotations

import pytest
import torch

from foundation.branches.request import Request
from foundation.errors import UserError
from foundation.heads import prototypes as heads
from foundation.objectives import dino
from foundation.schedules import Clock, Schedule
from tests.objectives.contexts import context

CLOCK = Clock(100, 10.0)
TEACHER = Request("teacher", "global", "cls", "cls")
GLOBAL = Request("student", "global", "cls", "cls")
LOCAL = Request("student", "local", "cls", "cls")


def build(prototypes: int, **settings) -> dino.Dino:
    config = dino.Config(**{"teacher_temperature": Schedule(start=0.07, shape="constant")} | settings)
    return config.build(context(CLOCK, {"cls": heads.Config(prototypes=prototypes)}, 8, masked=())).train()


def test_three_calls_of_dino(golden, make_batch):
    data = golden("03_dino_v1_loss")
    batch, views = int(data["arg/batch"]), int(data["arg/ncrops"])
    objective = build(int(data["arg/out_dim"]), centre_momentum=float(data["arg/center_momentum"]))
    for i, epoch in enumerate(data["arg/epochs"]):
        temperature = float(data["output/teacher_temp_schedule"][epoch])
        objective.config.teacher_temperature.__dict__["start"] = temperature  # the reference counts it in epochs
        before = torch.from_numpy(data[f"output/call{i}/center_before"]).flatten()
        torch.testing.assert_close(objective.target.next_centre(), before, rtol=1e-5, atol=1e-6)
        student = torch.from_numpy(data[f"input/call{i}/student_output"]).requires_grad_()
        outputs = {
            TEACHER: torch.from_numpy(data[f"input/call{i}/teacher_output"]),
            GLOBAL: student[: 2 * batch],
            LOCAL: student[2 * batch :],
        }
        result = objective(outputs, make_batch(batch, {"global": 2, "local": views - 2}), step=i)
        assert result.loss.item() == pytest.approx(float(data[f"output/call{i}/loss"]), rel=1e-5)
        result.loss.backward()
        expected = torch.from_numpy(data[f"grad/call{i}/student_output"])
        torch.testing.assert_close(student.grad, expected, rtol=1e-4, atol=1e-7)
        after = torch.from_numpy(data[f"output/call{i}/center_after"]).flatten()
        torch.testing.assert_close(objective.target.next_centre(), after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("same_view", [False, True])
@pytest.mark.parametrize("case", ["S_T", "globals"])
def test_pairs_of_dinov3(golden, make_batch, case, same_view):
    data = golden("03_dinov3_dino_loss")
    student = torch.from_numpy(data[f"input/{case}/student_logits"]).requires_grad_()
    teacher = torch.from_numpy(data[f"input/{case}/teacher_probs"])
    views, samples, prototypes = student.shape
    settings = {"other_views": ()} if views == 2 else {}
    objective = build(prototypes, same_view=same_view, **settings)
    objective.targets = lambda scores, temperature, step: scores  # the file gives probabilities
    rows = student.flatten(0, 1)
    outputs = {TEACHER: teacher.flatten(0, 1), GLOBAL: rows[: 2 * samples], LOCAL: rows[2 * samples :]}
    result = objective(outputs, make_batch(samples, {"global": 2, "local": views - 2}), step=0)
    key = f"{case}/ignore_diagonal_{int(not same_view)}"
    assert result.loss.item() == pytest.approx(float(data[f"output/{key}/loss"]), rel=1e-5)
    result.loss.backward()
    expected = torch.from_numpy(data[f"grad/{key}/student_logits"])
    torch.testing.assert_close(student.grad, expected, rtol=1e-4, atol=1e-7)


def test_sum_over_all_pairs_of_dinov2(golden):
    from foundation.objectives.cross_entropy import soft_cross_entropy

    data = golden("03_dinov2_dino_loss")
    student = torch.from_numpy(data["input/cross_entropy/student_logits"]).requires_grad_()
    teacher = torch.from_numpy(data["input/cross_entropy/teacher_probs"])
    loss = soft_cross_entropy(student, teacher.sum(0, keepdim=True), 0.1).mean(dim=1).sum()
    assert loss.item() == pytest.approx(float(data["output/cross_entropy/loss"]), rel=1e-5)
    loss.backward()
    expected = torch.from_numpy(data["grad/cross_entropy/student_logits"])
    torch.testing.assert_close(student.grad, expected, rtol=1e-4, atol=1e-7)


def test_three_global_views_pair_each_with_the_others(make_batch):
    samples, prototypes = 4, 6
    scores, teacher = torch.randn(3, samples, prototypes), torch.randn(3, samples, prototypes)
    objective = build(prototypes, other_views=())
    outputs = {TEACHER: teacher.flatten(0, 1), GLOBAL: scores.flatten(0, 1)}
    loss = objective(outputs, make_batch(samples, {"global": 3}), step=0).loss
    targets = torch.softmax(teacher / 0.07, dim=-1)
    logs = torch.log_softmax(scores / 0.1, dim=-1)
    pairs = [-(targets[t] * logs[s]).sum(-1).mean() for t in range(3) for s in range(3) if s != t]
    torch.testing.assert_close(loss, torch.stack(pairs).mean())


def test_uniform_outputs_give_the_plateau_and_full_entropy(make_batch):
    objective = build(64)
    outputs = {TEACHER: torch.zeros(8, 64), GLOBAL: torch.zeros(8, 64), LOCAL: torch.zeros(12, 64)}
    result = objective(outputs, make_batch(4, {"global": 2, "local": 3}), step=0)
    log_prototypes = pytest.approx(torch.tensor(64.0).log().item(), rel=1e-5)
    assert result.loss.item() == log_prototypes
    assert result.metrics["entropy"].item() == log_prototypes
    assert result.metrics["loss_global"].item() == result.metrics["loss_local"].item() == log_prototypes
    assert abs(result.metrics["kl"].item()) < 1e-5
    assert result.metrics["prototypes"].item() == 1 / 8  # one prototype wins for all eight rows


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("target", ["centering", "sinkhorn"])
def test_collapsed_features_stay_finite_in_16_bits(make_batch, dtype, target):
    objective = build(64, target=target)
    student = torch.full((8, 64), 200.0, dtype=dtype, requires_grad=True)
    outputs = {TEACHER: student.detach() * 100, GLOBAL: student}
    objective.student_requests = (GLOBAL,)
    with torch.autocast("cpu", dtype):
        result = objective(outputs, make_batch(4, {"global": 2}), step=0)
    result.loss.backward()
    assert result.loss.dtype == torch.float32 and result.loss.isfinite() and student.grad.isfinite().all()


def test_one_view_alone_is_refused(make_batch):
    objective = build(6, other_views=())
    outputs = {TEACHER: torch.zeros(4, 6), GLOBAL: torch.zeros(4, 6)}
    with pytest.raises(UserError, match="two 'global' views or for local views"):
        objective(outputs, make_batch(4, {"global": 1}), step=0)


def test_unknown_head_lists_the_heads_there_are():
    with pytest.raises(UserError, match="no head called 'patch'; the heads of branch 'teacher' are: cls"):
        dino.Config(head="patch").build(context(CLOCK, {"cls": heads.Config(prototypes=4)}, 8, masked=()))
