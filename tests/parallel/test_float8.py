"""Blocks that multiply 8-bit numbers: which layers do, what is refused, and that recipes learn as in bfloat16."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch

from foundation.cli import main
from foundation.errors import UserError
from foundation.linear import Linear
from foundation.linear_float8 import multiplies_float8
from foundation.parallel import float8
from foundation.run.rehearsal import Rehearsal, random_batch

HALF = ("train.precision=bfloat16", "encoder.drop_path=0")
EIGHTH = (*HALF, "train.float8=blocks")
works = pytest.mark.skipif(
    not multiplies_float8(torch.device("cpu")), reason="this torch multiplies no 8-bit numbers on a CPU"
)


def losses(recipe, steps: int = 3) -> list[float]:
    torch.manual_seed(0)
    step = Rehearsal(recipe, 8)
    return [float(step(random_batch(recipe, 8))) for _ in range(steps)]


def test_the_linear_layers_of_blocks_multiply_in_8_bits_and_no_others(tiny_recipe):
    encoder = tiny_recipe().encoder.build()
    names = [*encoder.state_dict()]
    assert float8.use_float8(encoder) == 8  # of two blocks: queries with keys and values, out, and two of the MLP
    chosen = [name for name, layer in encoder.named_modules() if isinstance(layer, Linear) and layer.float8]
    assert len(chosen) == 8 and all(name.startswith("trunk.blocks.") for name in chosen)
    assert [*encoder.state_dict()] == names


def test_what_cannot_be_done_is_refused(monkeypatch, tiny_recipe):
    with pytest.raises(UserError, match=r"goes with train\.precision=bfloat16 alone"):
        Rehearsal(tiny_recipe("train.precision=float32", "train.float8=blocks"), 8)
    with pytest.raises(UserError, match="possible: none, blocks"):
        tiny_recipe("train.float8=all")
    monkeypatch.setattr(float8, "multiplies_float8", lambda device: False)
    with pytest.raises(UserError, match="does not multiply 8-bit numbers on this cpu"):
        Rehearsal(tiny_recipe(*EIGHTH), 8)


@works
def test_losses_are_near_those_of_bfloat16_and_change_by_nothing_where_blocks_are_computed_again(tiny_recipe):
    half, eighth = losses(tiny_recipe(*HALF)), losses(tiny_recipe(*EIGHTH))
    assert half != eighth
    assert eighth == pytest.approx(half, rel=0.02)
    again = [losses(tiny_recipe(*EIGHTH, f"parallel.activation_checkpointing={how}")) for how in ("selective", "full")]
    assert all(one == other for one, other in pairwise([eighth, *again]))


@works
@pytest.mark.slow
def test_compiled_blocks_multiply_in_8_bits_too(tiny_recipe):
    eager, half = losses(tiny_recipe(*EIGHTH)), losses(tiny_recipe(*HALF))
    compiled = losses(tiny_recipe(*EIGHTH, "train.compile=blocks"))
    assert compiled == pytest.approx(eager, rel=0.02)  # fused code rounds once, to 8 bits
    assert compiled != pytest.approx(half, rel=1e-4)


@works
@pytest.mark.slow
def test_sharded_weights_give_the_losses_of_one_process(many_runs, tiny_recipe_file, tmp_path):
    """Scales belong to rows of the gathered weights, not of a shard."""
    asked = {"half": (1, HALF), "one": (1, EIGHTH), "ddp": (2, EIGHTH), "fsdp": (2, (*EIGHTH, "parallel.data=fsdp"))}
    common = ("train.length=3 steps", "checkpoints.every=1000 steps")
    plan = [
        [count, ["pretrain", str(tiny_recipe_file), *common, *words, "--run", str(tmp_path / name)],
         str(tmp_path / f"{name}.log")]
        for name, (count, words) in asked.items()
    ]  # fmt: skip
    for name, codes in zip(asked, many_runs(plan, seconds=900), strict=True):
        assert not any(codes), (tmp_path / f"{name}.log").read_text()[-3000:]
    found = {
        name: [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in asked
    }
    assert len(found["one"]) == 3 and found["one"] != found["half"]
    assert found["ddp"] == pytest.approx(found["one"], rel=5e-3)
    assert found["fsdp"] == pytest.approx(found["one"], rel=5e-3)  # in bfloat16 they differ by 2.4e-3


@works
def test_a_run_says_how_many_layers_multiply_in_8_bits(tiny_recipe_file, tmp_path, capfd):
    words = ["pretrain", str(tiny_recipe_file), *EIGHTH, "train.length=1 steps", "--run", str(tmp_path / "run")]
    assert main(words) == 0
    assert "float8      16 linear layers of all branches; a CPU does so slowly" in capfd.readouterr().out
