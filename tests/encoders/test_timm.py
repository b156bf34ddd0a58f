"""Backbones of timm behind our interface, with random weights."""

from __future__ import annotations

import importlib

import pytest
import torch

from foundation.config import from_plain, to_plain
from foundation.encoders import timm as adapter
from foundation.encoders import timm_models
from foundation.errors import UserError
from tests.encoders.inputs import inputs


@pytest.fixture(scope="module", autouse=True)
def timm_itself():
    try:
        return importlib.import_module("timm")
    except Exception as error:
        pytest.skip(f"timm cannot be imported: {error}")


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return adapter.Config(model="vit_tiny_patch16_224", size=(64, 64)).build().eval()


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return adapter.Config(model="resnet18").build().eval()


def test_vit_gives_what_timm_gives(vit):
    views = [torch.randn(2, 3, 64, 64), torch.randn(3, 3, 32, 48)]
    features = vit(views, taps=["block.0", "block.11"])
    for view, result in zip(views, features, strict=True):
        whole = vit.model.forward_features(view)
        torch.testing.assert_close(result.cls, whole[:, 0])
        torch.testing.assert_close(result.patches, whole[:, 1:])
        assert result.registers.shape == (view.shape[0], 0, 192)
        assert result.patches.shape[1] == len(vit.coordinates(tuple(view.shape[2:])))
        assert result.taps["block.11"].shape == whole.shape
        torch.testing.assert_close(vit.model.norm(result.taps["block.11"]), whole)
    assert (vit.width, vit.depth, vit.modality) == (192, 12, "image")


def test_vit_hides_patches(vit):
    view, mask = torch.randn(2, 3, 64, 64), torch.zeros(2, 16, dtype=torch.bool)
    mask[:, 0] = True
    changed = view.clone()
    changed[:, :, :16, :16] = 9.0
    hidden = vit(inputs([view], [mask]))[0].cls
    assert torch.equal(hidden, vit(inputs([changed], [mask]))[0].cls)
    assert not torch.allclose(hidden, vit([view])[0].cls)
    mask_token = vit.mask_token
    vit(inputs([view], [mask]))[0].patches.sum().backward()
    assert mask_token.grad is not None and mask_token.grad.abs().max() > 0


def test_registers_of_a_timm_model():
    with torch.device("meta"):
        encoder = adapter.Config(model="vit_small_patch14_reg4_dinov2", size=(28, 28)).build()
        features = encoder([torch.zeros(1, 3, 28, 28)])[0]
    assert features.registers.shape == (1, 4, 384)
    assert features.patches.shape == (1, 4, 384)


def test_resnet(resnet):
    features = resnet([torch.randn(2, 3, 64, 96)], taps=["block.4"])[0]
    assert features.cls.shape == (2, 512)
    assert features.patches.shape == (2, 6, 512)
    torch.testing.assert_close(features.cls, features.patches.mean(1))
    torch.testing.assert_close(features.taps["block.4"], features.patches)
    assert not resnet.capabilities.hides
    with pytest.raises(UserError, match="'resnet18' cannot hide patches"):
        resnet(inputs([torch.randn(1, 3, 64, 64)], [torch.zeros(1, 4, dtype=torch.bool)]))


def test_layers_stay_in_range(vit, resnet):
    for encoder in (vit, resnet):
        layers = {name: encoder.layer_of(name) for name, _ in encoder.named_parameters()}
        assert min(layers.values()) == 0
        assert max(layers.values()) <= encoder.depth + 1
    assert vit.layer_of("model.blocks.3.attn.qkv.weight") == 4


def test_mistakes_are_named(vit):
    with pytest.raises(UserError, match=r"no model 'vit_tiny_patch16_999'; similar: .*vit_"):
        adapter.Config(model="vit_tiny_patch16_999").build()
    with pytest.raises(UserError, match=r"unknown tap 'keys\.0': .* has block\.0 to block\.11"):
        vit.check_taps(["keys.0"])
    with pytest.raises(UserError, match="image resolution 60x64 is not a multiple of the patch size 16"):
        vit([torch.randn(1, 3, 60, 64)])


def test_a_wheel_that_does_not_fit_is_explained(monkeypatch):
    def broken(name: str):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(timm_models.importlib, "import_module", broken)
    with pytest.raises(UserError, match=r"timm .* cannot be imported with torch .*torchvision::nms"):
        timm_models.import_timm()


def test_card(vit):
    assert from_plain(adapter.Config, to_plain(vit.config)) == vit.config
    assert vit.flops([(2, 3, 64, 64)]) > 2 * 16 * 2 * 12 * 12 * 192**2
