"""FSDP2 on one GPU: a mesh of one process, whose numbers are those of the plain learner."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from foundation.measure.recipes import dinov2
from foundation.parallel.config import Config
from foundation.parallel.launch import free_port
from foundation.parallel.parallelize import shard
from foundation.parallel.shards import whole
from foundation.run import build
from foundation.run.rehearsal import Rehearsal, random_batch

pytestmark = pytest.mark.gpu


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process group of this process alone."""
    port = free_port(29555, say=lambda text: None)
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setitem(os.environ, name, value)
    torch.cuda.set_device(0)
    dist.init_process_group("cpu:gloo,cuda:nccl")
    yield
    dist.destroy_process_group()


LOSSES = "objectives=[{name: dino, head: shared}, {name: ibot, head: shared}]"
"""Without KoLeo, which takes logarithms of distances of untrained features: those are rounding in half precision."""


def apart(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Euclidean distance of all numbers together."""
    pairs = zip(one, other, strict=True)
    return float(sum((a.detach() - b.detach()).double().square().sum() for a, b in pairs) ** 0.5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_sharded_step_is_a_step(precision: str, group: None, device: torch.device, exact: None) -> None:
    settings = [f"train.precision={precision}", "train.device=cuda", LOSSES]
    recipe = dinov2("small", 4, *settings, tiny=True)
    plain, sharded = Rehearsal(recipe, 4), Rehearsal(recipe, 4)
    before = [parameter.detach().clone() for parameter in plain.learner.parameters() if parameter.requires_grad]
    shard(sharded.learner.parts, Config(data="fsdp"), sharded.placement, sharded.learner.may_leave_parameters_out)
    # Sharding puts other parameters in the place of those that the optimiser has: it is made anew.
    sharded.optimizer = recipe.optimizer.build(build.trainable(sharded.learner), sharded.learner.clock, 4)
    torch.manual_seed(0)
    batch = random_batch(recipe, 4).to(device)
    losses = []
    for rehearsal in (plain, sharded):
        losses.append(float(rehearsal(batch)))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5 if precision == "float32" else 2e-2)
    if precision == "float32":
        after = [parameter for parameter in plain.learner.parameters() if parameter.requires_grad]
        theirs = [whole(parameter) for parameter in sharded.learner.parameters() if parameter.requires_grad]
        assert apart(after, theirs) < 0.1 * apart(after, before)
