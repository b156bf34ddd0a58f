"""Point-MAE's encoder, written out after its paper and its published code, under its names."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from foundation.modalities.points.tokenizer import PointTokenizer
from foundation.zoo.convert import point_mae
from tests.encoders.inputs import inputs

WIDTH, DEPTH, HEADS = 32, 3, 2


def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.2

    shapes = {
        "encoder.first_conv.0": (8, 3, 1), "encoder.first_conv.1": (8,), "encoder.first_conv.3": (16, 8, 1),
        "encoder.second_conv.0": (24, 32, 1), "encoder.second_conv.1": (24,), "encoder.second_conv.3": (WIDTH, 24, 1),
        "pos_embed.0": (10, 3), "pos_embed.2": (WIDTH, 10), "norm": (WIDTH,),
    }  # fmt: skip
    for number in range(DEPTH):
        start = f"blocks.blocks.{number}"
        shapes |= {f"{start}.norm1": (WIDTH,), f"{start}.norm2": (WIDTH,), f"{start}.attn.proj": (WIDTH, WIDTH)}
        shapes |= {f"{start}.mlp.fc1": (4 * WIDTH, WIDTH), f"{start}.mlp.fc2": (WIDTH, 4 * WIDTH)}
    found = {f"MAE_encoder.blocks.blocks.{n}.attn.qkv.weight": draw(3 * WIDTH, WIDTH) for n in range(DEPTH)}
    for name, shape in shapes.items():
        found |= {f"MAE_encoder.{name}.weight": draw(*shape), f"MAE_encoder.{name}.bias": draw(shape[0])}
    for name in ("first_conv.1", "second_conv.1"):
        width = found[f"MAE_encoder.encoder.{name}.weight"].shape[0]
        found |= {
            f"MAE_encoder.encoder.{name}.running_mean": draw(width),
            f"MAE_encoder.encoder.{name}.running_var": draw(width).abs() + 0.5,
            f"MAE_encoder.encoder.{name}.num_batches_tracked": torch.tensor(7),
        }
    return {**found, "mask_token": draw(1, 1, WIDTH), "MAE_decoder.norm.weight": draw(WIDTH)}


def reference(weights: dict[str, Tensor], groups: Tensor, centres: Tensor) -> Tensor:
    """Tokens of groups [R, N, k, 3]: mini-PointNet, then positions added in front of every block."""
    w = {name.removeprefix("MAE_encoder."): value for name, value in weights.items()}
    rows, count, size, _ = groups.shape

    def normed(x: Tensor, name: str) -> Tensor:
        kept = [w[f"encoder.{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.relu(F.batch_norm(x, *kept))

    def convolved(x: Tensor, name: str) -> Tensor:
        return F.conv1d(x, w[f"encoder.{name}.weight"], w[f"encoder.{name}.bias"])

    x = convolved(groups.flatten(0, 1).transpose(1, 2), "first_conv.0")
    x = convolved(normed(x, "first_conv.1"), "first_conv.3")
    x = torch.cat([x.max(dim=2, keepdim=True).values.expand(-1, -1, size), x], dim=1)
    x = convolved(normed(convolved(x, "second_conv.0"), "second_conv.1"), "second_conv.3").max(dim=2).values
    tokens = x.view(rows, count, WIDTH)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"])

    places = linear(F.gelu(linear(centres, "pos_embed.0")), "pos_embed.2")
    for number in range(DEPTH):
        start = f"blocks.blocks.{number}"
        tokens = tokens + places
        inner = norm(tokens, f"{start}.norm1")
        q, k, v = linear(inner, f"{start}.attn.qkv").view(rows, count, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.mT) * (WIDTH // HEADS) ** -0.5).softmax(-1) @ v
        tokens = tokens + linear(mixed.transpose(1, 2).flatten(2), f"{start}.attn.proj")
        hidden = F.gelu(linear(norm(tokens, f"{start}.norm2"), f"{start}.mlp.fc1"))
        tokens = tokens + linear(hidden, f"{start}.mlp.fc2")
    return norm(tokens, "norm")


@torch.no_grad()
def test_point_mae():
    weights, source = state(), point_mae.Config(heads=HEADS, group_size=8, stride=16)
    assert source.matches(weights)
    made = source.convert(weights)
    encoder = made.encoder.build()
    encoder.load_state_dict(made.tensors)
    encoder.eval()
    cloud = torch.randn(2, 3, 128, generator=torch.Generator().manual_seed(1))
    assert isinstance(encoder.tokenizer, PointTokenizer)
    groups, centres = encoder.tokenizer.groups(cloud)
    found = encoder([cloud])[0].patches
    torch.testing.assert_close(found, reference(weights, groups, centres), atol=1e-5, rtol=1e-5)
    assert made.left_out.keys() == {"MAE_decoder.", "mask_token"} and made.evaluation.size == 1024
    once = replace(made.encoder, position=replace(made.encoder.position, every_block=False)).build()
    once.load_state_dict(made.tensors)
    assert not torch.allclose(once.eval()([cloud])[0].patches, found, atol=1e-3)


@torch.no_grad()
def test_groups_that_are_seen_keep_their_positions_in_every_block():
    weights = state()
    made = point_mae.Config(heads=HEADS, group_size=8, stride=16).convert(weights)
    encoder = made.encoder.build()
    encoder.load_state_dict(made.tensors)
    cloud = torch.randn(2, 3, 128, generator=torch.Generator().manual_seed(2))
    hidden = torch.zeros(2, 8, dtype=torch.bool)
    hidden[0, :3], hidden[1, 5:] = True, True
    (found,) = encoder.eval()(inputs([cloud], [hidden], drop=[3]))
    groups, centres = encoder.tokenizer.groups(cloud)
    for row in range(2):
        seen = ~hidden[row]
        wanted = reference(weights, groups[row : row + 1, seen], centres[row : row + 1, seen])[0]
        torch.testing.assert_close(found.patches[row, seen], wanted, atol=1e-5, rtol=1e-5)
