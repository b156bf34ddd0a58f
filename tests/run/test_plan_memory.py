"""A step that is followed on tensors without values calls the operators, and takes the memory, of a real one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from foundation import config, paths, planned
from foundation.measure.memory import allocated
from foundation.parallel import collective
from foundation.parallel.config import Config
from foundation.run.memory import peak, sharing
from foundation.run.plan import plan
from foundation.run.recipe import Recipe
from foundation.run.rehearsal import STEP, Rehearsal, random_batch
from foundation.run.trace import trace

aten = torch.ops.aten
OF_MODALITIES = ("quickstart", "quickstart-audio", "quickstart-points", "quickstart-video", "quickstart-imu")
WITHIN = 1.25
"""What is predicted and what is measured differ by less than this factor."""


def load(name, *overrides):
    given = ["data.samples_per_epoch=1000", "data.shards=[]", "train.precision=float32", *overrides]
    return config.load(Recipe, paths.recipe(name), given)


def _sdpa(query, key, value, *rest, out_shape=None, **options):
    return sdpa_flop_count(query, key, value)


def _sdpa_backward(gradient, query, key, value, *rest, out_shape=None, **options):
    return sdpa_backward_flop_count(gradient, query, key, value)


ON_CPU = {
    aten._scaled_dot_product_flash_attention_for_cpu: _sdpa,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _sdpa_backward,
}
"""Operators of which torch's counter has no formula."""


def flops_of_a_real_step(recipe, rows):
    step, batch = Rehearsal(recipe, rows), random_batch(recipe, rows)
    with FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
        step.learner(batch, STEP, watched=False).loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["quickstart", *(pytest.param(n, marks=pytest.mark.slow) for n in OF_MODALITIES[1:])])
def test_operations_are_those_that_torch_counts_in_a_real_step(name, monkeypatch):
    monkeypatch.setattr("foundation.linear.onednn_is_quicker", lambda: False)  # torch counts none of its products
    recipe = load(name)
    found = trace(recipe, plan(recipe).learner, 3, "cpu", half=False)
    assert found.flops() == flops_of_a_real_step(recipe, 3) > 0


def measured(name, rows, *settings):
    """What ``foundation bench memory`` says, in a process of its own."""
    words = [name, *settings, "--batch", str(rows), "--steps", "2", "--threads", "1"]
    command = [sys.executable, "-m", "foundation", "bench", "memory", *words, "--json", "/dev/stdout"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    return json.loads(result.stdout[result.stdout.rindex("\n{") :])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OF_MODALITIES, "utd-paired-dino-nano", "cifar10-poa-nano", "fsdd-mae-nano"])
def test_memory_is_predicted_within_a_quarter(name):
    figures = measured(name, 16)
    assert 1 / WITHIN < figures["measured_over_estimate"] < WITHIN, figures


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["selective", "full"])
def test_memory_is_predicted_where_blocks_are_computed_again(kept):
    """Views of two sizes run apart, and drop path leaves the residual stream to nothing but the next block's input."""
    small = ("encoder.drop_path=0.3", "encoder.packing=never", f"parallel.activation_checkpointing={kept}")
    figures = measured("cifar10-dino-ibot-nano", 64, *small)
    assert 1 / WITHIN < figures["measured_over_estimate"] < WITHIN, figures


def test_peak_of_a_step_is_what_torch_allocates(tiny_recipe):
    recipe = tiny_recipe("train.precision=float32", "train.batch_size=8")
    predicted = sum(plan(recipe).memory.values())

    def steps():
        step, batch = Rehearsal(recipe, 8), random_batch(recipe, 8)
        for _ in range(2):
            step(batch)

    assert 1 / WITHIN < allocated(steps) / predicted < WITHIN


def test_what_blocks_compute_again_they_do_not_keep():
    recipe = load("hapt-mae-nano")
    found = trace(recipe, plan(recipe).learner, 16, "cuda", half=True)
    none, selective, full = (sum(peak(found, kind).values()) for kind in ("none", "selective", "full"))
    assert full < selective < none
    kept = sum(s.bytes for s in found.storages if found.is_trained(s.block) and (s.died or 1e9) > found.turn)
    assert none - full < kept


def test_a_gpu_takes_other_ways_than_a_cpu_and_no_longer_rows_of_weights():
    recipe = load("hapt-mae-nano")
    names = {}
    for device in ("cpu", "cuda"):
        found = trace(recipe, plan(recipe).learner, 4, device, half=True)
        names[device] = {operator.name for operator in found.operators if operator.kind == "attention"}
    assert not names["cpu"]  # half-precision attention is written out there
    assert names["cuda"]


def test_exchanges_are_noted_and_not_made():
    recipe = load("quickstart", "objectives=[{name: dino, target: sinkhorn, head: cls}]")
    learner = plan(recipe).learner
    assert trace(recipe, learner, 4, "cuda", half=True).summed == ()
    several = trace(recipe, plan(recipe).learner, 4, "cuda", half=True, processes=8)
    width = recipe.heads["cls"].outputs
    assert len(several.summed) >= 3 and 4 * width in several.summed
    with planned.planning("cuda", 8) as noted:
        assert collective.gather_rows(torch.ones(3, 2)).shape == (24, 2)
    assert noted.gathered == [8 * 3 * 2 * 4] and collective.world_size() == 1


def test_who_shares_what():
    assert sharing(Config(data="fsdp"), 16, 8).weights == 16
    assert sharing(Config(data="hsdp"), 16, 8).weights == 8
    assert sharing(Config(data="hsdp", shard=4), 16, 8).weights == 4
    ddp, oss = sharing(Config(), 16, 8), sharing(Config(data="fairscale"), 16, 8)
    assert (ddp.weights, ddp.moments) == (1, 1) and (oss.weights, oss.moments) == (1, 16)


def test_shards_hold_their_share_and_gather_a_block_at_a_time():
    one = plan(load("cifar10-random-teacher-nano", "train.batch_size=64")).memory
    shared = plan(load("cifar10-random-teacher-nano", "train.batch_size=64", "parallel.data=fsdp"), processes=8).memory
    for kind in ("parameters", "AdamW", "teachers"):
        assert shared[kind] == one[kind] // 8
    assert shared["gradients"] == one["parameters"] // 8
    assert 0 < shared["gathered weights"] < 3 * one["parameters"]
