"""The EMA teacher follows and never trains."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foundation.branches import ema, trained
from foundation.branches.base import BranchContext, EncoderBranch
from foundation.errors import UserError
from foundation.schedules import Clock, Schedule


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def student() -> EncoderBranch:
    return trained.TrainedBranch(network(), {"projector": network()}, {})


def teacher_of(branch: EncoderBranch, **settings) -> ema.EmaBranch:
    config = ema.Config(**settings)
    return config.build(BranchContext("teacher", Clock(10, 5.0), 0, None, {}, {"student": branch}))


def test_parameters_average_and_buffers_are_copied():
    model = student()
    teacher = teacher_of(model)
    before = {name: value.clone() for name, value in teacher.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter)
    model.encoder(torch.randn(8, 4))  # moves the batch statistics
    teacher.average(model, 0.9)
    for name, value in model.named_parameters():
        torch.testing.assert_close(teacher.get_parameter(name), 0.9 * before[name] + 0.1 * value)
    for name, value in model.named_buffers():
        assert torch.equal(teacher.get_buffer(name), value)
    assert teacher.get_buffer("encoder.1.num_batches_tracked") == 1


def test_a_refused_step_moves_nothing_and_any_other_what_it_always_does():
    model = student()
    teachers = [teacher_of(model, momentum=Schedule(start=0.3, end=0.3)) for _ in range(3)]
    before = {name: value.clone() for name, value in teachers[0].state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter)
    model.encoder(torch.randn(8, 4))
    model.encoder[1].running_mean.fill_(torch.nan)  # what the forward pass of a bad step leaves
    refused, applied, plain = teachers
    refused.update({"student": model}, 0, torch.tensor(0.0))
    assert all(torch.equal(value, before[name]) for name, value in refused.state_dict().items())
    applied.update({"student": model}, 0, torch.tensor(1.0))
    plain.update({"student": model}, 0)
    for name, value in plain.state_dict().items():
        assert torch.equal(applied.state_dict()[name].nan_to_num(), value.nan_to_num()), name
    assert not torch.equal(plain.encoder[0].weight, before["encoder.0.weight"])


def test_the_schedule_counts_optimiser_steps():
    teacher, branches = teacher_of(student(), momentum=Schedule(start=0.5, end=1.0)), {"student": student()}
    assert teacher.update(branches, 0) == {"momentum": 0.5}
    assert teacher.update(branches, 5) == {"momentum": 0.75}
    kept = teacher.encoder[0].weight.clone()
    nn.init.zeros_(branches["student"].encoder[0].weight)
    assert teacher.update(branches, 10) == {"momentum": 1.0}
    assert torch.equal(teacher.encoder[0].weight, kept)


def test_it_stays_in_evaluation_mode_without_gradients():
    model = student().train()
    teacher = teacher_of(model)
    nn.ModuleDict({"teacher": teacher}).train()
    assert not any(module.training for module in (*teacher.encoder.modules(), *teacher.heads.modules()))
    x = torch.randn(8, 4)
    statistics = teacher.encoder[1].running_mean.clone()
    assert torch.equal(teacher.encoder(x), teacher.encoder(x)) and not teacher.encoder(x).requires_grad
    assert torch.equal(teacher.encoder[1].running_mean, statistics)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())


def test_another_student_is_refused_by_name():
    teacher, other = teacher_of(student()), student()
    other.encoder.append(nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"only one of them has 'encoder\.4\.bias'"):
        teacher.average(other, 0.5)


def test_an_impossible_momentum_is_refused():
    with pytest.raises(UserError, match=r"ema\.momentum is 1\.5; it must be from 0 to 1"):
        ema.Config(momentum=Schedule(start=1.5, shape="constant"))


def test_it_names_the_branches_that_it_could_follow():
    with pytest.raises(UserError, match="the branch 'studnet' is not there; did you mean 'student'"):
        teacher_of(student(), of="studnet")


def test_heads_may_use_the_statistics_of_the_batch():
    teacher = teacher_of(student(), batch_statistics=True).train()
    training = {name for name, module in teacher.named_modules() if name and module.training}
    assert training == {"heads.projector.1"}  # neither dropout nor the encoder
    teacher.eval()
    assert not any(module.training for name, module in teacher.named_modules() if name)
    other = teacher_of(student()).train()
    assert not any(module.training for name, module in other.named_modules() if name)
