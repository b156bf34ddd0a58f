"""LoRA: what is added to an encoder stands in its answers, and merged into plain weights says the same."""

from __future__ import annotations

import pytest
import torch

from foundation import config
from foundation.errors import UserError
from foundation.run import build
from foundation.run.recipe import Recipe
from foundation.schedules import Clock
from tests.finetune.conftest import RECIPE

pytest.importorskip("peft")

LORA = """
heads: {cls: {name: linear, outputs: 3}}
branches:
  student: {name: lora, rank: 2, alpha: 4.0LAYERS}
  best: {name: best}
"""


def branches(layers: str = "", encoder: str = ""):
    text = RECIPE.replace("optimizer: {}", "optimizer: {learning_rate: 1e-3}") + LORA.replace("LAYERS", layers)
    recipe = config.load(Recipe, text, [encoder] if encoder else [])
    return build.branches(recipe, Clock(10, 10.0))


TIMM = "encoder={name: timm, model: test_vit, size: [32, 32]}"


@pytest.mark.parametrize("encoder", ["", TIMM])
def test_an_update_lies_in_the_layer_that_it_is_added_to(encoder):
    """By layers the optimiser is made: learning rates decay along them."""
    built, problems = branches(encoder=encoder)
    assert not problems
    own = built["student"].encoder
    plain = built["best"].encoder
    known = {name.rpartition(".")[0]: plain.layer_of(name) for name, _ in plain.named_parameters()}
    added = [name for name, _ in own.named_parameters() if "lora_" in name]
    assert added
    for name in added:
        assert own.layer_of(name) == known[name.partition(".lora_")[0]], name
    if encoder:
        with pytest.raises(KeyError):
            own.layer_of("nothing.weight")


@pytest.mark.parametrize(
    "encoder",
    ["", pytest.param("encoder={name: timm, model: vit_tiny_patch16_224, size: [32, 32]}", marks=pytest.mark.slow)],
)
def test_merged_weights_say_what_the_updates_say(encoder):
    built, problems = branches(encoder=encoder)
    assert not problems
    student, best = built["student"], built["best"]
    views = torch.randn(2, 3, *(32, 32) if encoder else (16, 16))
    student.eval()
    before = student.encoder([views])[0]
    torch.testing.assert_close(best.encoder([views])[0].cls, before.cls)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in student.encoder.named_parameters():
            assert weight.requires_grad == ("lora" in name)
            if "lora_B" in name:
                weight.normal_(0, 0.2, generator=random)
    after = student.encoder([views])[0]
    assert not torch.allclose(after.cls, before.cls, atol=1e-3)
    best.refresh(built)
    torch.testing.assert_close(best.encoder([views])[0].cls, after.cls, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(best.encoder([views])[0].patches, after.patches, rtol=1e-4, atol=1e-4)


def test_updates_reach_the_layers_that_are_named_and_no_others():
    built, _ = branches(", layers: [qkv]")
    changed = {name.split(".lora_")[0] for name, _ in built["student"].encoder.named_parameters() if ".lora_" in name}
    assert len(changed) == 2 and all(name.endswith("qkv") for name in changed)
    _, problems = branches(", layers: [query]")
    assert problems and "has no linear layer called query" in problems[0][1] and "qkv" in problems[0][1]


def test_gradients_reach_the_updates_through_attention_that_reads_the_weight():
    built, _ = branches()
    student = built["student"]
    student.encoder([torch.randn(2, 3, 16, 16)])[0].cls.sum().backward()
    grown = {name for name, weight in student.encoder.named_parameters() if weight.grad is not None}
    assert any("qkv.lora_B" in name for name in grown) and all("lora" in name for name in grown)


def test_first_weights_go_below_the_updates():
    built, _ = branches()
    other, _ = branches()
    student, plain = built["student"], other["best"].encoder

    class Weights:
        def apply(self, encoder, heads=None):
            encoder.load_state_dict({key: torch.full_like(value, 0.5) for key, value in plain.state_dict().items()})
            return ("all are a half",)

    student.begin_from(Weights())
    assert student.begins == ("all are a half",)
    assert all((weight == 0.5).all() for weight in student.plain_encoder().values())
    added = [weight for name, weight in student.encoder.named_parameters() if "lora_A" in name]
    assert added and not any((weight == 0.5).all() for weight in added)


def test_a_layer_of_no_block_is_never_chosen():
    with pytest.raises(UserError, match="rank"):
        config.load(Recipe, RECIPE + LORA.replace("rank: 2", "rank: 0").replace("LAYERS", ""))
