"""A refused step moves no running statistics of BatchNorm, whatever its forward pass has seen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foundation.engine.statistics import RunningStatistics


@pytest.mark.parametrize("refused", [0.0, 1.0])
def test_statistics_are_those_before_a_refused_step(refused):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3), nn.Sequential(nn.BatchNorm1d(3))).train()
    statistics = RunningStatistics(module)
    for value in (1.0, float("nan")):  # the second step is kept by the buffers of the first
        before = {name: buffer.clone() for name, buffer in module.named_buffers()}
        statistics.keep()
        for _ in range(2):  # micro-batches
            module(torch.full((4, 2, 5), value) * torch.randn(4, 2, 5))
        statistics.put_back(torch.tensor(refused))
        after = dict(module.named_buffers())
        same = all(torch.equal(after[name], buffer) for name, buffer in before.items())
        assert same == (refused == 1.0)


def test_a_module_without_such_layers_has_nothing_to_put_back():
    module = nn.Linear(2, 2)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    statistics = RunningStatistics(module)
    statistics.keep()
    statistics.put_back(torch.tensor(1.0))
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
