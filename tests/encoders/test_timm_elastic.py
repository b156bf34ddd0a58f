"""Slices of timm's Swin and ResNet give the same inside the large network and by themselves (POA)."""

from __future__ import annotations

import pytest
import torch

from foundation.encoders.elastic import Sliced, SubNetwork, stand_alone
from foundation.encoders.protocol import EncoderInput
from foundation.encoders.timm import Config, TimmEncoder
from foundation.errors import UserError

pytestmark = pytest.mark.usefixtures("timm_itself")

SHAPES = {
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"patch_size": 2, "embed_dim": 32, "depths": [1, 2, 5], "num_heads": [4, 8, 16], "window_size": 4},
        SubNetwork(24, (1, 2, 3)),
    ),
    "resnet-gn": ("resnet50_gn", {"layers": [2, 1, 4, 1], "channels": [16, 32, 64, 128], "base_width": 384}, None),
    "resnet-bn": ("resnet50", {"layers": [2, 1, 4, 1], "channels": [8, 16, 32, 64]}, SubNetwork(6, (1, 1, 3, 1))),
}
SIZES = {name: size or SubNetwork(64, (1, 1, 2, 1)) for name, (_, _, size) in SHAPES.items()}


def encoder(name: str, drop_path: float = 0.0) -> TimmEncoder:
    """With numbers that all matter: no norm is at 1, no bias at 0."""
    model, arguments, _ = SHAPES[name]
    built = Config(model=model, size=(32, 32), drop_path=drop_path, arguments=arguments).build()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, tensor in built.state_dict().items():
            if tensor.is_floating_point():
                small = 0.3 if tensor.ndim == 1 else 0.5 / max(1, tensor[0].numel()) ** 0.5
                tensor.add_(small * torch.randn(tensor.shape, generator=generator))
            if key.endswith("running_var"):
                tensor.abs_().add_(0.1)
    return built


def pictures(seed: int = 1) -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", SHAPES)
def test_a_slice_gives_what_it_gives_by_itself(name):
    whole, size = encoder(name).eval(), SIZES[name]
    alone = stand_alone(whole, size)
    view = pictures()
    with torch.no_grad():
        inside, outside = Sliced(whole, size)([view], ["block.1"])[0], alone([view], ["block.1"])[0]
    assert isinstance(alone, TimmEncoder) and not torch.equal(inside.cls, whole([view])[0].cls)
    assert inside.cls.std() > 1e-3
    for here, there in ((inside.cls, outside.cls), (inside.patches, outside.patches)):
        torch.testing.assert_close(here, there, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(inside.taps["block.1"], outside.taps["block.1"], rtol=1e-6, atol=1e-6)
    again = alone.config.build().eval()  # as an export is loaded: from the Config and the weights, nothing else
    again.load_state_dict(alone.state_dict())
    with torch.no_grad():
        assert torch.equal(again([view])[0].cls, outside.cls)


@pytest.mark.parametrize("name", SHAPES)
def test_the_whole_is_a_slice_of_itself(name):
    whole = encoder(name).eval()
    with torch.no_grad():
        assert torch.equal(Sliced(whole, whole.full_size)([pictures()])[0].cls, whole([pictures()])[0].cls)


@pytest.mark.parametrize("name", SHAPES)
def test_gradients_reach_the_leading_entries_of_the_blocks_that_are_left_and_no_others(name):
    whole, size = encoder(name).train(), SIZES[name]
    buffers = {key: value.clone() for key, value in whole.named_buffers()}
    sliced = Sliced(whole, size)
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[:, :3] = True
    for part in sliced.twin.modules():
        if hasattr(part, "drop_prob"):
            part.drop_prob = 0.0  # timm's Swin drops paths unless it is told another rate than 0
    given = EncoderInput(view=pictures(), mask=mask[:, : len(whole.coordinates((32, 32)))] if whole.hides else None)
    features = sliced([given])[0]
    (features.cls.square().sum() + features.patches.square().sum()).backward()
    touched = {piece.source for piece in sliced.pieces.values()}
    for key, parameter in whole.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == (key in touched), key
    if name == "swin":
        qkv = whole.model.layers[2].blocks[0].attn.qkv.weight.grad.unflatten(0, (3, 128))
        assert (
            not qkv[:, 96:].any() and not qkv[:, :, 96:].any() and qkv[:, :96, :96].abs().amin(dim=(1, 2)).gt(0).all()
        )
        merged = whole.model.layers[1].downsample.reduction.weight.grad.unflatten(1, (4, 32))
        assert not merged[48:].any() and not merged[..., 24:].any() and merged[:48, :, :24].ne(0).all()
    else:
        second = whole.model.layer3[0].conv2.weight
        left = second.shape[0] * size.width // whole.full_size.width
        assert not second.grad[left:].any() and not second.grad[:, left:].any() and second.grad[:left, :left].any()
    for key, value in whole.named_buffers():
        assert torch.equal(value, buffers[key]), f"{key}: a slice must not move the statistics of the whole"


def test_alpha_keeps_the_size_of_what_comes_out_and_patch_merging_takes_the_leading_channels_of_its_four_parts():
    whole, size = encoder("swin").eval(), SIZES["swin"]
    tensors = Sliced(whole, size).tensors()
    model, alpha = whole.model, 32 / 24
    reduction = model.layers[1].downsample.reduction.weight
    expected = torch.cat([reduction[:48, 32 * part : 32 * part + 24] for part in range(4)], dim=1) * alpha
    torch.testing.assert_close(tensors["model.layers.1.downsample.reduction.weight"], expected)
    second = model.layers[2].blocks[2]  # of blocks 0 to 4 the slice keeps 0, 2 and 4
    qkv = torch.cat([second.attn.qkv.weight[128 * part : 128 * part + 96, :96] for part in range(3)]) * alpha
    torch.testing.assert_close(tensors["model.layers.2.blocks.1.attn.qkv.weight"], qkv)
    torch.testing.assert_close(tensors["model.layers.2.blocks.1.attn.qkv.bias"][96:192], second.attn.qkv.bias[128:224])
    torch.testing.assert_close(
        tensors["model.layers.2.blocks.1.mlp.fc2.weight"], second.mlp.fc2.weight[:96, :384] * alpha
    )
    table = second.attn.relative_position_bias_table
    torch.testing.assert_close(tensors["model.layers.2.blocks.1.attn.relative_position_bias_table"], table[:, :12])
    torch.testing.assert_close(tensors["model.patch_embed.proj.weight"], model.patch_embed.proj.weight[:24])


def test_a_resnet_loses_middle_channels_alone():
    whole, size = encoder("resnet-gn").eval(), SIZES["resnet-gn"]
    assert whole.full_size == SubNetwork(96, (2, 1, 4, 1))
    alone = stand_alone(whole, size)
    assert alone.width == whole.width and alone.config.arguments["base_width"] == 256
    last = whole.model.layer3[3]  # of blocks 0 to 3 the slice keeps the first and the last
    torch.testing.assert_close(alone.model.layer3[1].conv3.weight, last.conv3.weight[:, :256] * 1.5)
    torch.testing.assert_close(alone.model.layer3[1].conv1.weight, last.conv1.weight[:256])
    assert alone.model.layer3[1].bn2.num_groups == last.bn2.num_groups == 32


@pytest.mark.parametrize("name", ["swin", "resnet-gn"])
def test_a_kept_block_drops_paths_as_often_as_in_the_whole(name):
    whole = encoder(name, drop_path=0.2)
    twin = stand_alone(whole, SIZES[name])
    blocks = [list(part.model.layers[2].blocks if name == "swin" else part.model.layer3) for part in (whole, twin)]
    rates = [
        [block.drop_path1.drop_prob if name == "swin" else block.drop_path.drop_prob for block in part]
        for part in blocks
    ]
    kept = [0, 2, 4] if name == "swin" else [0, 3]
    assert rates[1] == [rates[0][number] for number in kept] and len(set(rates[1])) > 1


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("swin", SubNetwork(20, (1, 2, 5)), "8 to 32 in steps of 8"),
        ("swin", SubNetwork(40, (1, 2, 5)), "8 to 32 in steps of 8"),
        ("swin", SubNetwork(24, (1, 2, 6)), "3 stages of 1, 1 to 2, 1 to 5 blocks"),
        ("swin", SubNetwork(24, (5,)), "3 stages of"),
        ("resnet-gn", SubNetwork(48, (2, 1, 4, 1)), "32 to 96 in steps of 32"),
        ("resnet-bn", SubNetwork(8, (2, 1, 0, 1)), "1 to 4"),
    ],
)
def test_sizes_that_there_are_not_are_refused_with_those_that_there_are(name, size, said):
    with pytest.raises(UserError, match=said):
        encoder(name).check_size(size)


def test_families_that_cannot_be_cut_say_which_can():
    convnext = Config(model="convnext_atto", arguments={"depths": [1, 1, 2, 1], "dims": [16, 32, 48, 64]}).build()
    assert not convnext.capabilities.elastic
    with pytest.raises(UserError, match=r"Swin .* ResNets of plain bottlenecks"):
        convnext.check_size(convnext.full_size)
    senet = Config(model="seresnet50", arguments={"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64]}).build()
    assert not senet.capabilities.elastic, "its attention over channels has channels of its own"
