"""A second, independent check: the classes of transformers, made at random, and the names of files on the hub."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from foundation.zoo.convert import dino, dinov2, dinov3, vjepa2
from foundation.zoo.load import load_encoder

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow  # to import it takes long
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
WORDS = {"q": "query", "k": "key", "v": "value"}


def noisy(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval()


def encoder_of(made) -> nn.Module:
    encoder = made.encoder.build()
    encoder.load_state_dict(made.tensors)
    return encoder.eval()


def older(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as in files that versions before 5 wrote, which most files on the hub are."""
    rules = [(f"attention.{short}_proj", f"attention.attention.{word}") for short, word in WORDS.items()]
    rules += [("attention.o_proj", "attention.output.dense")]
    of_vit = [("layers.", "encoder.layer."), ("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense")]
    found = {}
    for name, tensor in state.items():
        for new, old in rules + of_vit * name.startswith("layers."):
            name = name.replace(new, old)
        found[name] = tensor
    return found


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters"])
@torch.no_grad()
def test_dinov2(kind, gated, old):
    settings = getattr(transformers, f"{kind}Config")(**SMALL, use_swiglu_ffn=gated)
    model = noisy(getattr(transformers, f"{kind}Model")(settings))
    state = older(model.state_dict()) if old else model.state_dict()
    source, image = dinov2.Config(heads=2), torch.randn(2, 3, 48, 48)
    assert source.matches(state)
    found = encoder_of(source.convert(state))([image if kind != "Dinov2" else image[..., :32, :32]])[0]
    wanted = model(image if kind != "Dinov2" else image[..., :32, :32]).last_hidden_state
    ours = torch.cat((found.cls[:, None], found.registers, found.patches), dim=1)
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gated", [False, True])
@torch.no_grad()
def test_dinov3(gated):
    act = "silu" if gated else "gelu"  # as released
    small = {**SMALL, "intermediate_size": 192, "num_register_tokens": 3, "use_gated_mlp": gated, "hidden_act": act}
    settings = transformers.DINOv3ViTConfig(**small)
    model = noisy(transformers.DINOv3ViTModel(settings))
    source, image = dinov3.Config(heads=2), torch.randn(2, 3, 40, 48)
    assert source.matches(model.state_dict())
    made = source.convert(model.state_dict())
    found, wanted = encoder_of(made)([image])[0], model(image).last_hidden_state
    ours = torch.cat((found.cls[:, None], found.registers, found.patches), dim=1)
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)
    assert made.encoder.zero_key_bias and made.encoder.position.base == 100.0


@torch.no_grad()
def test_vjepa2():
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "crop_size": 32, "patch_size": 8}
    predictor = {"pred_hidden_size": 48, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2}
    model = noisy(transformers.VJEPA2Model(transformers.VJEPA2Config(**small, **predictor, frames_per_clip=4)))
    state = {name.removeprefix("encoder."): t for name, t in model.state_dict().items() if name.startswith("encoder.")}
    clip, source = torch.randn(2, 3, 4, 32, 32), vjepa2.Config(heads=2, frames=4, size=32)
    assert source.matches(state)
    found = encoder_of(source.convert(state))([clip])[0]
    wanted = model(clip.transpose(1, 2), skip_predictor=True).last_hidden_state
    torch.testing.assert_close(found.patches, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("old", [False, True])
@torch.no_grad()
def test_vit_as_dino_was_put_on_the_hub(old):
    model = noisy(transformers.ViTModel(transformers.ViTConfig(**SMALL, intermediate_size=256, layer_norm_eps=1e-6)))
    state = older(model.state_dict()) if old else model.state_dict()
    source, image = dino.Config(heads=2), torch.randn(2, 3, 32, 32)
    assert source.matches(state)
    found = encoder_of(source.convert(state))([image])[0]
    ours = torch.cat((found.cls[:, None], found.patches), dim=1)
    torch.testing.assert_close(ours, model(image).last_hidden_state, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_file_that_transformers_wrote_loads_by_its_name(tmp_path):
    settings = transformers.Dinov2WithRegistersConfig(**SMALL)
    model = noisy(transformers.Dinov2WithRegistersModel(settings))
    model.save_pretrained(tmp_path)
    loaded = load_encoder(f"{tmp_path / 'model.safetensors'},as=dinov2,heads=2")
    image = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(
        loaded.encoder([image])[0].cls, model(image).last_hidden_state[:, 0], atol=1e-5, rtol=1e-5
    )
