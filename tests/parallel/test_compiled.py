"""Blocks compiled one by one: which they are, what stays, and that losses are those of the uncompiled recipe."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from foundation.encoders.blocks import Mlp
from foundation.errors import UserError
from foundation.parallel import compiled
from foundation.run.rehearsal import Rehearsal, random_batch


def compiled_parts(module: nn.Module) -> set[str]:
    return {name for name, part in module.named_modules() if part._compiled_call_impl is not None}


def test_the_innermost_blocks_are_compiled_and_names_and_copies_stay(tiny_recipe):
    encoder = tiny_recipe().encoder.build()
    names = [*encoder.state_dict()]
    assert compiled.compile_blocks(encoder) == 2
    assert compiled_parts(encoder) == {"trunk.blocks.0", "trunk.blocks.1"}
    assert [*encoder.state_dict()] == names
    twin = copy.deepcopy(encoder)  # an average, a probe: it must not compute with the weights of this one
    assert not compiled_parts(twin)
    stages = nn.Sequential(*(nn.Sequential(*(Mlp(4, 8) for _ in range(2))) for _ in range(2)))
    assert compiled.compile_blocks(stages) == 4
    assert compiled_parts(stages) == {"0.0", "0.1", "1.0", "1.1"}


def test_no_compiler_and_impossible_words_are_refused(monkeypatch, tiny_recipe):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler on a CPU.*train.compile=none"):
        Rehearsal(tiny_recipe("train.compile=blocks"), 8)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs Triton on a GPU"):
        compiled.check_compiler(torch.device("cuda"))
    with pytest.raises(UserError, match="matmul_precision"):
        tiny_recipe("train.matmul_precision=tf32")


def test_a_cpu_takes_no_notice_of_the_precision_of_products(tiny_recipe):
    before = torch.get_float32_matmul_precision()
    Rehearsal(tiny_recipe("train.matmul_precision=medium"), 8)
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.slow
def test_losses_are_those_of_the_uncompiled_recipe_and_lengths_do_not_compile_again(tiny_recipe):
    """Two lengths of crops, masks that differ from step to step, drop path, activation checkpointing."""
    from torch._dynamo.utils import counters

    settings = ("train.precision=float32", "parallel.activation_checkpointing=full")
    batches = [random_batch(tiny_recipe(), 8) for _ in range(5)]
    losses: dict[str, list[float]] = {}
    for mode in ("none", "blocks"):
        torch.manual_seed(0)
        step = Rehearsal(tiny_recipe(*settings, f"train.compile={mode}"), 8)
        losses[mode] = []
        for number, batch in enumerate(batches):
            torch.manual_seed(number)
            losses[mode].append(float(step(batch)))
            if mode == "blocks" and number == 2:
                graphs = counters["stats"]["unique_graphs"]
    assert losses["blocks"] == pytest.approx(losses["none"], rel=1e-5)
    assert 0 < graphs == counters["stats"]["unique_graphs"]


@pytest.mark.slow
def test_compiled_blocks_may_be_sharded(many_runs, tiny_recipe_file, tmp_path):
    """Two processes under FSDP2 and under DDP, compiled, against one that is not."""
    asked = {
        "one": (1, ()),
        "fsdp": (2, ("parallel.data=fsdp", "train.compile=blocks")),
        "ddp": (2, ("train.compile=blocks",)),
    }
    common = ("train.length=3 steps", "encoder.drop_path=0", "checkpoints.every=1000 steps")
    plan = [
        [count, ["pretrain", str(tiny_recipe_file), *common, *words, "--run", str(tmp_path / name)],
         str(tmp_path / f"{name}.log")]
        for name, (count, words) in asked.items()
    ]  # fmt: skip
    for name, codes in zip(asked, many_runs(plan, seconds=1800), strict=True):
        assert not any(codes), (tmp_path / f"{name}.log").read_text()[-3000:]
    losses = {
        name: [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in asked
    }
    assert len(losses["one"]) == 3
    assert losses["fsdp"] == pytest.approx(losses["one"], rel=1e-5)
    assert losses["ddp"] == pytest.approx(losses["one"], rel=1e-5)
