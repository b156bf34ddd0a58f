"""Sub-networks are slices of a larger encoder, run and are exported by the same tensors, and are POA's (golden 16)."""

from __future__ import annotations

import copy
import re

import pytest
import torch

from foundation.encoders import vit
from foundation.encoders.elastic import Leading, Piece, Sliced, SubNetwork, kept_blocks, stand_alone
from foundation.encoders.positions import PositionConfig
from foundation.encoders.protocol import EncoderModule
from foundation.encoders.towers import Config as Towers
from foundation.errors import UserError
from foundation.modalities.audio import tokenizer as audio
from foundation.modalities.image import tokenizer as image
from foundation.modalities.imu import tokenizer as imu
from foundation.modalities.video import tokenizer as video
from tests.encoders.inputs import inputs
from tests.encoders.reference_names import our_name
from tests.encoders.test_protocol import KINDS, small

SIZE = SubNetwork(16, (2,))


def reference_name(name: str) -> str:
    """Our name of a parameter of the reference, whose elastic layers wrap plain ones."""
    return our_name(re.sub(r"\.(linear|norm)\.(weight|bias)$", r".\2", name))


def poa(arrays) -> vit.Encoder:
    args = {key.removeprefix("arg/"): value for key, value in arrays.items() if key.startswith("arg/")}
    width = int(args["max_embed_dim"])
    encoder = vit.Config(
        width=width,
        depth=int(args["max_depth"]),
        heads=width // int(args["head_dim"]),
        size=(int(args["img_size"]),) * 2,
        tokenizer=image.Config(patch_size=int(args["patch_size"]), channels=int(args["in_chans"])),
        position=PositionConfig(offset=0.1),
        mlp_ratio=float(args["mlp_ratio"]),
        layer_scale=float(args["init_values"]),
        norm_eps=float(args["layer_norm_eps"]),
        qkv_bias=bool(args["qkv_bias"]),
    ).build()
    weights = {k.removeprefix("param/"): torch.from_numpy(v) for k, v in arrays.items() if k.startswith("param/")}
    encoder.load_state_dict({reference_name(k): v for k, v in weights.items() if "dino_head" not in k})
    return encoder.eval()


def test_sub_networks_are_those_of_poa(golden):
    arrays = golden("16_poa_slice")
    sizes = sorted({key.split("/")[1] for key in arrays if key.startswith("input/") and key.endswith("/image")})
    for width, depth in arrays["arg/subnets"].tolist():
        encoder, name = poa(arrays), f"w{width}_d{depth}"
        assert kept_blocks(depth, encoder.depth) == arrays[f"output/{name}/block_ids"].tolist()
        network = Sliced(encoder, SubNetwork(width, (depth,)))
        for size in sizes:
            view = torch.from_numpy(arrays[f"input/{size}/image"])
            for kind in ("plain", "masked"):
                if f"output/{name}/{size}/{kind}/x_norm_clstoken" not in arrays:
                    continue
                mask = torch.from_numpy(arrays[f"input/{size}/mask"]) if kind == "masked" else None
                (features,) = network(inputs([view], [mask]))
                scalar = torch.zeros(())
                for value, token in ((features.cls, "clstoken"), (features.patches, "patchtokens")):
                    expected = torch.from_numpy(arrays[f"output/{name}/{size}/{kind}/x_norm_{token}"])
                    torch.testing.assert_close(value, expected, rtol=2e-5, atol=2e-6)
                    if f"output/{name}/{size}/{kind}/scalar" in arrays:
                        scalar = (
                            scalar + (value * torch.from_numpy(arrays[f"input/{size}/{name}/cotangent_{token}"])).sum()
                        )
                prefix = f"grad/{name}/{size}/{kind}/param/"
                stored = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
                if not stored:
                    continue
                scalar.backward()
                gradients = {parameter: value.grad for parameter, value in encoder.named_parameters()}
                for parameter, value in stored.items():
                    torch.testing.assert_close(
                        gradients[reference_name(parameter)], torch.from_numpy(value), rtol=2e-4, atol=2e-5
                    )
                without = {reference_name(one) for one in arrays[f"output/{name}/parameters_without_gradient"].tolist()}
                assert {parameter for parameter, value in gradients.items() if value is None} == without


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changes",
    [{}, {"class_token": False}, {"registers": 2, "layer_scale": 0.5, "norm": "rmsnorm", "separate_class_norm": True}],
)
def test_a_slice_and_its_export_are_one_network(kind, changes):
    encoder, view = small(kind, depth=3, **changes)
    alone = stand_alone(encoder, SIZE)
    assert alone.config == encoder.slice_of(SIZE).config and str(alone.full_size) == "w16-d2"
    (ours,), (theirs,) = Sliced(encoder, SIZE)([view]), alone([view])
    assert torch.equal(ours.cls, theirs.cls) and torch.equal(ours.patches, theirs.patches)
    assert theirs.patches.shape[-1] == 16
    again = encoder.config.of_size(SIZE).build().eval()  # a fresh process has the config and the weights
    again.load_state_dict(alone.state_dict())
    assert torch.equal(again([view])[0].cls, theirs.cls)


def test_a_preset_is_sliced_by_its_numbers():
    config = vit.Config(preset="nano", depth=4, size=(32, 32)).of_size(SubNetwork(96, (3,)))
    assert (config.preset, config.width, config.depth, config.heads) == (None, 96, 3, 3)


@pytest.mark.parametrize("ffn", ["swiglu", "swiglu64"])
def test_gated_layers_and_rotary_positions_are_sliced(ffn):
    encoder, view = small(width=64, heads=4, ffn=ffn, position=PositionConfig(kind="rotary"), zero_key_bias=True)
    size = SubNetwork(48, (2,))
    alone, hidden = stand_alone(encoder, size), encoder.trunk.blocks[0].ffn.hidden
    gate, content = (48 / 64 * alone.trunk.blocks[0].ffn.hidden.weight).chunk(2)
    torch.testing.assert_close(gate, hidden.weight[: len(gate), :48])
    torch.testing.assert_close(content, hidden.weight[len(hidden.weight) // 2 :][: len(gate), :48])
    assert torch.equal(alone([view])[0].cls, Sliced(encoder, size)([view])[0].cls)


def test_tables_of_times_and_places_are_sliced():
    encoder, view = small("video", position=PositionConfig(factorised=True))
    assert torch.equal(stand_alone(encoder, SIZE)([view])[0].cls, Sliced(encoder, SIZE)([view])[0].cls)


def test_the_full_size_is_the_encoder_itself():
    encoder, view = small(depth=3)
    network = Sliced(encoder, encoder.full_size)
    assert all(one.data_ptr() == other.data_ptr() for one, other in zip(
        network.tensors().values(), encoder.parameters(), strict=True))  # fmt: skip
    assert torch.equal(network([view])[0].patches, encoder([view])[0].patches)


@pytest.mark.parametrize("tokenizer, size, shape", [
    (image.Config(patch_size=4, stem="conv"), (16, 16), (3, 16, 16)),
    (audio.Config(patch=(4, 4), stem="conv"), (16, 32), (1, 16, 32)),
    (video.Config(tubelet=2, patch_size=4, stem="conv"), (4, 8, 8), (3, 4, 8, 8)),
    (imu.Config(patch=8, stem="conv", layout="axis"), (32,), (6, 32)),
])  # fmt: skip
def test_a_stem_is_shared_whole_and_its_statistics_move_once(tokenizer, size, shape):
    encoder = vit.Config(width=64, depth=2, heads=4, size=size, tokenizer=tokenizer).build()
    network, view = Sliced(encoder, SIZE), torch.randn(4, *shape)
    encoder([view])
    before = copy.deepcopy(encoder.state_dict())
    network([view])[0].cls.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(parameter.grad is not None for parameter in encoder.tokenizer.stem.parameters())
    alone = stand_alone(encoder, SIZE)
    stem = encoder.tokenizer.stem.state_dict()
    assert stem and all(torch.equal(value, stem[name]) for name, value in alone.tokenizer.stem.state_dict().items())
    alone([view])  # has a life of its own
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_drop_path_of_the_kept_blocks_and_the_mode_are_kept():
    encoder, view = small(depth=5, drop_path=0.4, drop_path_schedule="linear")
    network = Sliced(encoder.train(), SubNetwork(32, (3,)))
    assert network.twin.trunk.rates == pytest.approx([0.0, 0.2, 0.4])
    one, other = (network([view], generator=torch.Generator().manual_seed(seed))[0].cls for seed in (0, 3))
    assert not torch.equal(one, other)
    encoder.eval()
    assert torch.equal(network([view])[0].cls, network([view])[0].cls)
    assert stand_alone(encoder, SubNetwork(32, (3,))).trunk.rates == network.twin.trunk.rates


def test_slicing_draws_no_random_numbers_and_registers_nothing():
    encoder, view = small(depth=3)
    state, names = torch.get_rng_state(), [name for name, _ in encoder.named_parameters()]
    network = Sliced(encoder, SIZE)
    stand_alone(encoder, SIZE)
    assert torch.equal(torch.get_rng_state(), state)
    assert [name for name, _ in encoder.named_parameters()] == names
    (both,) = (copy.deepcopy((encoder, network)),)
    assert both[1].parent is both[0]
    with torch.no_grad():
        both[0].cls_token.add_(1.0)
    assert not torch.equal(both[1]([view])[0].cls, network([view])[0].cls)


@pytest.mark.parametrize("size, words", [
    (SubNetwork(24, (2,)), "no whole number of heads of 16"),
    (SubNetwork(80, (2,)), "widths 16, 32, 48, 64"),
    (SubNetwork(32, (3,)), "depths from 1 to 2, not 3"),
    (SubNetwork(32, (0,)), "depths from 1 to 2, not 0"),
    (SubNetwork(32, (1, 1)), "has one depth"),
])  # fmt: skip
def test_sizes_that_there_are_not_are_refused(size, words):
    encoder, _ = small(width=64, heads=4)
    with pytest.raises(UserError, match=words):
        Sliced(encoder, size)
    encoder.check_size(SubNetwork(16, (1,)))


def test_encoders_that_cannot_be_sliced_say_so():
    towers = Towers(towers={"image": vit.Config(preset="nano", size=(32, 32))}, main="image").build()
    for encoder in (towers, EncoderModule()):
        assert not encoder.capabilities.elastic
        with pytest.raises(UserError, match="cannot be cut into smaller ones"):
            encoder.slice_of(SubNetwork(64, (3,)))
    assert small()[0].capabilities.elastic


def test_pieces_take_leading_parts_and_places():
    tensor = torch.arange(24.0).view(6, 4)
    piece = Piece("x", (Leading(2, 2), torch.tensor([3, 0])), scale=2.0)
    assert torch.equal(piece.of(tensor), 2 * tensor[[0, 1, 3, 4]][:, [3, 0]])
    assert Piece("x").of(tensor) is tensor and Piece("x", (slice(6), Leading(4))).of(tensor) is tensor
    assert Piece("x", (slice(3),)).of(tensor).data_ptr() == tensor.data_ptr()
    assert torch.equal(Piece("x", (slice(1), Leading(1, 2))).of(tensor), tensor[:1, [0, 2]])
    assert kept_blocks(1, 6) == [0] and kept_blocks(12, 24)[-2:] == [20, 23]
