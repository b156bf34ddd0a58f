"""The EMA teacher follows and never trains."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from foundation.branches import ema
from foundation.errors import UserError
from foundation.schedules import Clock, Schedule


def student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def test_parameters_average_and_buffers_are_copied():
    model = student()
    teacher = ema.Config().build(model)
    before = {name: value.clone() for name, value in teacher.branch.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter)
    model(torch.randn(8, 4))  # moves the batch statistics
    teacher.average(model, 0.9)
    for name, value in model.named_parameters():
        expected = 0.9 * before[name] + 0.1 * value
        torch.testing.assert_close(teacher.branch.get_parameter(name), expected)
    for name, value in model.named_buffers():
        assert torch.equal(teacher.branch.get_buffer(name), value)
    assert teacher.branch.get_buffer("1.num_batches_tracked") == 1


def test_the_schedule_counts_optimiser_steps():
    teacher = ema.Config(momentum=Schedule(start=0.5, end=1.0)).build(student())
    learner = SimpleNamespace(student=student(), clock=Clock(10, 5.0))
    assert teacher.update(learner, 0) == {"momentum": 0.5}
    assert teacher.update(learner, 5) == {"momentum": 0.75}
    kept = teacher.branch[0].weight.clone()
    nn.init.zeros_(learner.student[0].weight)
    assert teacher.update(learner, 10) == {"momentum": 1.0}
    assert torch.equal(teacher.branch[0].weight, kept)


def test_it_stays_in_evaluation_mode_without_gradients():
    model = student().train()
    teacher = ema.Config().build(model)
    holder = nn.ModuleDict({"teacher": teacher}).train()
    assert not any(module.training for module in teacher.branch.modules())
    x = torch.randn(8, 4)
    statistics = teacher.branch[1].running_mean.clone()
    assert torch.equal(holder["teacher"](x), teacher(x)) and not teacher(x).requires_grad
    assert torch.equal(teacher.branch[1].running_mean, statistics)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())


def test_another_student_is_refused_by_name():
    teacher = ema.Config().build(student())
    with pytest.raises(UserError, match=r"only one of them has '4\.bias'"):
        teacher.average(nn.Sequential(*student(), nn.Linear(2, 2)), 0.5)


def test_an_impossible_momentum_is_refused():
    with pytest.raises(UserError, match=r"ema\.momentum is 1\.5; it must be from 0 to 1"):
        ema.Config(momentum=Schedule(start=1.5, shape="constant"))


def test_heads_may_use_the_statistics_of_the_batch():
    branch = nn.Module()
    branch.encoder, branch.heads = student(), nn.ModuleDict({"projector": student()})
    teacher = ema.Config(batch_statistics=True).build(branch).train()
    training = {name for name, module in teacher.branch.named_modules() if module.training}
    assert training == {"heads.projector.1"}  # neither dropout nor the encoder
    assert not any(module.training for module in teacher.eval().branch.modules())
    assert not any(module.training for module in ema.Config().build(branch).train().branch.modules())
