"""Encoders of two real processes: sharded weights give the same taps, BatchNorm the same statistics."""

from __future__ import annotations

import json

import pytest

SHARDED = """
import json, torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from foundation.encoders import vit
from foundation.parallel.process_group import process_group

taps = ["keys.0", "attention.1", "block.1"]
with process_group("cpu"):
    torch.manual_seed(0)
    encoder = vit.Config(width=32, depth=2, heads=2, size=(32, 32)).build()
    view = torch.randn(2, 3, 32, 32)
    (expected,) = encoder([view], taps)
    mesh = init_device_mesh("cpu", (2,))
    for block in encoder.trunk.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(encoder, mesh=mesh)
    (found,) = encoder([view], taps)
    print(json.dumps([bool(torch.allclose(found.taps[tap], expected.taps[tap], atol=1e-6)) for tap in taps]))
"""


@pytest.mark.slow
def test_taps_of_sharded_weights_are_those_of_whole_ones(together):
    for done in together(SHARDED, 2):
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == [True] * 3


STATISTICS = """
import json, sys, torch
from foundation import config
from foundation.parallel import collective
from foundation.parallel.process_group import process_group
from foundation.parallel.replicate import replicate
from foundation.encoders import timm

with process_group("cpu"):
    torch.manual_seed(0)
    encoder = timm.Config(model=sys.argv[1]).build()
    wrapped = replicate(encoder, torch.device("cpu"))
    optimizer = torch.optim.SGD(encoder.parameters(), 0.1)
    torch.manual_seed(1)
    whole = torch.randn(3, 6, 3, 64, 64) * 3 + torch.arange(6).view(6, 1, 1, 1)
    for batch in whole:
        wrapped([batch[collective.rank() * 3 :][:3]])[0].cls.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    found = {name: value.double().sum().item() for name, value in encoder.named_buffers()}
    alone = timm.Config(model=sys.argv[1]).build()
    first = {name: value.double().sum().item() for name, value in alone.named_buffers()}
print(json.dumps([found, first]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("model", ["test_resnet", "test_efficientnet"])
def test_batch_norm_of_two_processes_gathers_the_same_statistics(model, together):
    done = together(STATISTICS, 2, model)
    assert all(process.returncode == 0 for process in done), done[0].stderr
    (one, first), (other, _) = (json.loads(process.stdout) for process in done)
    running = [name for name in one if "running" in name]
    assert one == other and len(running) > 10
    assert all(one[name] != first[name] for name in running)
