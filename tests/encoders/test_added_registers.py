"""An encoder that is given registers starts as the one without: every weight keeps its meaning, to the bit."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from foundation.encoders import timm as adapter
from foundation.encoders import vit
from foundation.errors import UserError
from foundation.modalities.image import tokenizer
from foundation.run import initial

timm = pytest.importorskip("timm", exc_type=Exception)
SHAPE = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
VIEW = torch.linspace(-1, 1, 2 * 3 * 256).view(2, 3, 16, 16)


def ours(registers: int) -> vit.Encoder:
    shape = tokenizer.Config(patch_size=4)
    return vit.Config(width=32, depth=2, heads=2, size=(16, 16), tokenizer=shape, registers=registers).build().eval()


def theirs(registers: int, **settings) -> adapter.TimmEncoder:
    config = {"model": "vit_tiny_patch16_224", "size": (16, 16), "arguments": SHAPE}
    return adapter.Config(**{**config, **settings}, registers=registers).build().eval()


def without(tokens: torch.Tensor, registers: int) -> torch.Tensor:
    return torch.cat((tokens[:, :1], tokens[:, 1 + registers :]), dim=1)


def test_a_vit_takes_weights_without_registers_and_keeps_its_own():
    torch.manual_seed(0)
    plain, given = ours(0), ours(5)
    fresh = given.register_tokens.detach().clone()
    given.load_state_dict(given.adopted(plain.state_dict()))
    assert torch.equal(given.register_tokens, fresh) and float(fresh.std()) > 0.01
    assert torch.equal(without(given.embed(VIEW)[0], 5), plain.embed(VIEW)[0])
    behind = {name: value for name, value in plain.state_dict().items() if name.startswith("trunk.")}
    assert behind and all(torch.equal(given.state_dict()[name], value) for name, value in behind.items())
    assert given([VIEW])[0].registers.shape == (2, 5, 32)
    own = given.adopted(given.state_dict())
    assert torch.equal(own["register_tokens"], fresh)


def test_a_timm_model_keeps_the_position_of_its_class_token_in_the_token():
    torch.manual_seed(0)
    plain, given = theirs(0), theirs(5)
    given.load_state_dict(given.adopted(plain.state_dict()))
    assert given.prefix == 6 and given.model.pos_embed.shape[1] == plain.model.pos_embed.shape[1] - 1
    embedded = [one.model._pos_embed(one.model.patch_embed(VIEW)) for one in (given, plain)]
    assert torch.equal(without(embedded[0], 5), embedded[1])
    folded = ("model.cls_token", "model.pos_embed")
    kept = {name: value for name, value in plain.state_dict().items() if name not in folded}
    assert len(kept) > 20 and all(torch.equal(given.state_dict()[name], value) for name, value in kept.items())
    assert 0.5 < float(given.model.reg_token.detach().std()) * 32**0.5 < 1.5
    whole = theirs(0, arguments={**SHAPE, "no_embed_class": True})  # the same without registers: not a number differs
    whole.load_state_dict({name: value for name, value in given.state_dict().items() if name != "model.reg_token"})
    for one, other in ((a.patches, b.patches) for a, b in zip(whole([VIEW]), plain([VIEW]), strict=True)):
        assert torch.equal(one, other)


def test_weights_of_a_file_are_folded_and_an_export_with_registers_is_itself(tmp_path):
    torch.manual_seed(1)
    published = timm.create_model("test_vit", img_size=32, num_classes=0)
    save_file(published.state_dict(), tmp_path / "model.safetensors")
    settings = {"model": "test_vit", "size": (32, 32), "weights": str(tmp_path / "model.safetensors")}
    given = adapter.Config(**settings, registers=3).build()
    folded = published.cls_token + published.pos_embed[:, :1]
    assert torch.equal(given.model.cls_token, folded) and given.capabilities.hides
    again = adapter.Config(**{**settings, "weights": None}, registers=3).build()
    again.load_state_dict(again.adopted(given.state_dict()))
    assert torch.equal(again.model.reg_token, given.model.reg_token)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (dict(model="resnet18"), "it is a ResNet, and timm adds registers to plain vision transformers"),
        (dict(model="vit_small_patch14_reg4_dinov2"), "it has 4 already"),
        (dict(model="deit_tiny_distilled_patch16_224"), "another token beside the class token"),
    ],
)
def test_models_that_cannot_be_given_registers_are_refused(settings, problem):
    with pytest.raises(UserError, match=problem), torch.device("meta"):
        adapter.Config(**settings, registers=4).build()


def test_registers_and_timms_own_words_for_them_exclude_each_other():
    with pytest.raises(UserError, match=r"encoder\.arguments\.reg_tokens cannot be set together"):
        adapter.Config(model="vit_tiny_patch16_224", registers=4, arguments={"reg_tokens": 2})


def test_a_run_may_start_from_weights_without_registers_but_not_from_others():
    first = initial.Config(weights="timm:test_vit,random")
    encoder = adapter.Config(model="test_vit", registers=4).build()
    fresh, before = encoder.model.reg_token.detach().clone(), encoder.model.norm.weight.detach().clone()
    encoder.model.norm.weight.data.add_(1.0)
    first.apply(encoder)
    assert torch.equal(encoder.model.reg_token, fresh) and torch.equal(encoder.model.norm.weight, before)
    with pytest.raises(UserError, match="do not fit the encoder; different are"):
        first.apply(adapter.Config(model="test_vit", arguments={"depth": 3}, registers=4).build())
