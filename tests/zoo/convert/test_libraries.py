"""Weights of timm's and open_clip's classes, made at random, become encoders that compute the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from foundation.errors import UserError
from foundation.zoo.convert import dino, ibot, mae, open_clip, timm_vit
from foundation.zoo.load import load_encoder

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 2}


@pytest.fixture
def timm_vit_of(timm_itself):
    from timm.models.vision_transformer import VisionTransformer

    def make(**options) -> nn.Module:
        torch.manual_seed(0)
        model = VisionTransformer(**{**SMALL, "num_classes": 0, **options})
        with torch.no_grad():
            for parameter in model.parameters():  # so that biases, norms and tokens count
                parameter.add_(torch.randn_like(parameter) * 0.05)
        return model.eval()

    return make


def encoder_of(made, **changed) -> nn.Module:
    encoder = replace(made.encoder, **changed).build()
    encoder.load_state_dict(made.tensors)
    return encoder.eval()


@torch.no_grad()
def same(model: nn.Module, encoder: nn.Module, size: int = 32) -> None:
    image = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    tokens, found = model.forward_features(image), encoder([image])[0]
    ours = torch.cat((found.cls[:, None], found.registers, found.patches), dim=1)
    torch.testing.assert_close(ours, tokens, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("source", [dino, ibot, mae])
def test_plain_transformers_have_the_official_names(source, timm_vit_of):
    """The official models are timm's of their time, with these names and this norm (1e-6)."""
    model = timm_vit_of()
    state = model.state_dict()
    extra = {
        dino: {}, ibot: {"masked_embed": torch.ones(1, 64)},
        mae: {"mask_token": torch.ones(1, 1, 32), "decoder_embed.weight": torch.ones(32, 64)},
    }[source]  # fmt: skip
    given = source.Config(heads=2)
    assert given.matches({**state, **extra})
    made = given.convert({**state, **extra})
    same(model, encoder_of(made))
    assert made.tensors["mask_token"].sum() == (64 if source is ibot else 0)
    assert [*made.left_out] == (["decoder_", "mask_token"] if source is mae else [])
    offset = 0.0 if source is mae else 0.1
    assert made.encoder.position.offset == offset and made.evaluation.size == 224


def test_a_file_that_may_be_of_several_sources_asks_which(timm_vit_of, tmp_path):
    model = timm_vit_of()
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(UserError, match=r"of dino, ibot, mae, timm_vit alike.*vit.pth,as=dino, "):
        load_encoder(tmp_path / "vit.pth")
    loaded = load_encoder(f"{tmp_path / 'vit.pth'},as=dino,heads=2")
    same(model, loaded.encoder)
    assert loaded.modality == "image" and loaded.evaluation.crop_fraction == 0.875 and loaded.name == "vit"


@pytest.mark.parametrize(
    "options",
    [
        {"num_classes": 5},
        {"reg_tokens": 2},
        {"reg_tokens": 2, "no_embed_class": True},
        {"init_values": 0.1},
        {"no_embed_class": True},
        {"qkv_bias": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [32, 48])
def test_timm_transformers(options, size, timm_vit_of):
    model = timm_vit_of(**options, dynamic_img_size=True)
    source = timm_vit.Config(heads=2)
    assert source.matches(model.state_dict())
    made = source.convert(model.state_dict())
    same(model, encoder_of(made), size)
    assert ("head." in made.left_out) == ("num_classes" in options)


@pytest.mark.slow  # open_clip takes seconds to import and to make the model
def test_image_towers_of_open_clip(tmp_path: Path):
    library = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    model = library.create_model("ViT-S-32-alt", pretrained=None).eval()
    source = open_clip.Config(model="ViT-S-32-alt")
    assert source.matches(model.state_dict())
    made = source.convert(model.state_dict())
    encoder, image = encoder_of(made), torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(
            encoder([image])[0].cls @ model.visual.proj, model.encode_image(image), atol=1e-5, rtol=1e-5
        )
    assert made.left_out.keys() == {"all but visual.", "proj"}
    with torch.device("meta"):  # shapes alone tell which model it is, where only one has them
        state = {name: torch.empty_like(tensor, device="meta") for name, tensor in model.state_dict().items()}
        assert open_clip.Config().convert(state).encoder.model == "ViT-S-32-alt"
        state["visual.transformer.resblocks.0.mlp.c_fc.weight"] = torch.empty(5, 384)
        with pytest.raises(UserError, match="open_clip has no model of these shapes"):
            open_clip.Config().convert(state)
