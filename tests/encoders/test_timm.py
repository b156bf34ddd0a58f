"""Backbones of timm behind our interface, with random weights."""

from __future__ import annotations

import pytest
import torch

from foundation.config import from_plain, to_plain
from foundation.encoders import timm as adapter
from foundation.encoders import timm_models
from foundation.errors import UserError
from tests.encoders.inputs import inputs

pytestmark = pytest.mark.usefixtures("timm_itself")


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


TINY = {
    "vit": {"model": "vit_tiny_patch16_224", "size": (32, 32), "arguments": {"patch_size": 8, "depth": 2}},
    "swin": {
        "model": "swin_tiny_patch4_window7_224",
        "size": (64, 64),
        "arguments": {"embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8), "window_size": 2},
    },
    "resnet": {"model": "test_resnet"},
    "convnext": {"model": "test_convnext"},
}
"""One small model of each family, and what it is made of."""


@pytest.fixture(scope="module", params=TINY)
def tiny(request):
    torch.manual_seed(0)
    return adapter.Config(**TINY[request.param]).build().eval()


def test_every_family_gives_what_timm_gives_at_any_size_with_taps_and_without(tiny):
    views = [torch.randn(2, 3, 64, 64), torch.randn(1, 3, 96, 32)]
    names = tiny.tap_names()
    for view, plain, tapped in zip(views, tiny(views), tiny(views, names), strict=True):
        output = tiny.model.forward_features(view)
        if output.ndim == 3:
            tokens, pooled = output[:, 1:], output[:, 0]
        else:
            nhwc = output if tiny.model.__class__.__name__ == "SwinTransformer" else output.permute(0, 2, 3, 1)
            tokens, pooled = nhwc.flatten(1, 2), tiny.model.forward_head(output, pre_logits=True).flatten(1)
        for found in (plain, tapped):
            torch.testing.assert_close(found.patches, tokens)
            torch.testing.assert_close(found.cls, pooled)
        assert set(tapped.taps) == set(names) and len(names) == tiny.depth
        assert tokens.shape[1] == len(tiny.coordinates(tuple(view.shape[2:])))
        some = torch.tensor([0, tokens.shape[0] * tokens.shape[1] - 1])
        (chosen,) = tiny(inputs([view], wanted=[some]))
        torch.testing.assert_close(chosen.patches, tokens.flatten(0, 1)[some])


def test_coordinates_are_those_of_the_output_where_sizes_are_no_multiple_of_the_stride(resnet):
    assert len(resnet([torch.randn(1, 3, 100, 40)])[0].patches[0]) == len(resnet.coordinates((100, 40))) == 8
    with pytest.raises(UserError, match="'test_convnext' cannot take images of 16x16"):
        adapter.Config(model="test_convnext").coordinates((16, 16))


def test_a_mask_of_the_output_hides_all_that_lies_under_it():
    torch.manual_seed(0)
    swin = adapter.Config(**TINY["swin"]).build().eval()
    assert swin.capabilities.hides and swin.stride == 32 and swin.patch_side == 4
    torch.nn.init.normal_(swin.mask_token)
    view, mask = torch.randn(2, 3, 64, 96), torch.zeros(2, 6, dtype=torch.bool)
    mask[0, 4], mask[1, :3] = True, True  # row 1, column 1; the whole first row
    under = swin.spread(mask, view).expand_as(view)
    assert under[0, 0, 32:, 32:64].all() and under[0].sum() == 3 * 32 * 32 and under[1, :, :32].all()
    changed, beside = view.clone(), view.clone()
    changed[under] = 9.0
    beside[0, :, 31, 40] += 9.0
    hidden, same, other = (swin(inputs([one], [mask]))[0] for one in (view, changed, beside))
    assert torch.equal(hidden.patches, same.patches) and torch.equal(hidden.cls, same.cls)
    assert not torch.allclose(hidden.patches[0], other.patches[0])
    assert torch.equal(swin.cells(view)[0, 4], view[0, :, 32:, 32:64])
    with pytest.raises(UserError, match=r"mask is \[2, 5\].*\[2, 6\]"):
        swin(inputs([view], [mask[:, :5]]))


def test_layers_are_level_with_taps_and_the_stem_is_the_patch_embedding(tiny):
    names = [name for name, _ in tiny.named_parameters()]
    layers = {name: tiny.layer_of(name) for name in names}
    stem = {name for name in names if tiny.is_patch_embed(name)}
    assert {layers[name] for name in stem} == {0}
    module = {"VisionTransformer": "patch_embed", "SwinTransformer": "patch_embed", "ConvNeXt": "stem"}
    own = module.get(type(tiny.model).__name__, ("conv1", "bn1"))
    own = (own,) if isinstance(own, str) else own
    assert stem == {name for name in names if name.startswith(tuple(f"model.{part}." for part in own))}
    for number, stage in enumerate(tiny.stages):
        inside = {layers[name] for name in names if name.startswith(f"model.{stage}.")}
        assert inside in ({number + 1}, set())
    last = {name for name in names if layers[name] == tiny.depth + 1}
    ends = {"VisionTransformer": "model.norm.", "SwinTransformer": "model.norm.", "ConvNeXt": "model.head.norm."}
    end = ends.get(type(tiny.model).__name__)
    assert last == ({f"{end}weight", f"{end}bias"} if end else set())


def test_arguments_that_are_not_there_or_not_free_are_named():
    with pytest.raises(UserError, match="'test_resnet' has no argument 'depths'"):
        adapter.Config(model="test_resnet", arguments={"depths": 3}).build()
    with pytest.raises(UserError, match=r"arguments\.checkpoint_path: use encoder\.weights"):
        adapter.Config(model="test_resnet", arguments={"checkpoint_path": "model.pth"})
    with pytest.raises(UserError, match=r"arguments\.num_classes cannot be set"):
        adapter.Config(model="test_resnet", arguments={"num_classes": 10})
    with pytest.raises(UserError, match="cannot leave tokens out"):
        encoder, mask = adapter.Config(**TINY["vit"]).build(), torch.arange(16)[None] < 4
        encoder(inputs([torch.randn(1, 3, 32, 32)], [mask], drop=[4]))


def test_layers_stay_in_range(vit, resnet):
    for encoder in (vit, resnet):
        layers = {name: encoder.layer_of(name) for name, _ in encoder.named_parameters()}
        assert min(layers.values()) == 0
        assert max(layers.values()) <= encoder.depth + 1
    assert vit.layer_of("model.blocks.3.attn.qkv.weight") == 4
    assert vit.layer_of("model.norm.weight") == 13
    assert resnet.layer_of("model.layer4.0.conv1.weight") == resnet.depth


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


def test_no_residual_is_skipped_unless_asked_for() -> None:
    from timm.layers import DropPath

    small = {"patch_size": 2, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4}
    for rate in (0.0, 0.2):
        model = adapter.Config(
            model="swin_tiny_patch4_window7_224", size=(32, 32), drop_path=rate, arguments=small
        ).build()
        skipped = [part.drop_prob for part in model.modules() if isinstance(part, DropPath)]
        assert skipped and max(skipped) == pytest.approx(rate)
