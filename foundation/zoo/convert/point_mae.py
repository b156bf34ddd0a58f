"""Weights of Point-MAE (Pang et al. 2022, Pang-Yatian/Point-MAE): ``pretrain.pth``."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from foundation.encoders import vit
from foundation.encoders.positions import PositionConfig
from foundation.errors import UserError
from foundation.modalities.points import tokenizer
from foundation.modalities.points.evaluation import EvaluationConfig
from foundation.zoo.convert.base import Converted, Keys, State, no_mask_token, shape_of
from foundation.zoo.convert.blocks import FIRST, heads_of, take_blocks, take_norm, trunk_of

_DECODER = ("MAE_decoder.", "decoder_pos_embed.", "increase_dim.", "mask_token", "MAE_encoder.mask_token")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The encoder of Point-MAE's pretraining, without class token; its decoder is left out."""

    heads: int | None = None
    """Attention heads; None: as many of width 64 as there are (6)."""
    group_size: int = 32
    """Points of a group, which the file does not tell."""
    stride: int = 16
    """Points for each group (1024 points, 64 groups), likewise."""

    @property
    def title(self) -> str:
        return "Point-MAE (Pang et al. 2022)"

    def matches(self, state: State) -> bool:
        named = _encoder(state)
        return FIRST in named and "encoder.first_conv.0.weight" in named and "pos_embed.0.weight" in named

    def convert(self, state: State) -> Converted:
        keys = Keys(_encoder(state), self.title)
        if "cls_token" in keys:
            raise UserError(
                "these are weights of Point-MAE's fine-tuning, with a class token: take those of pretraining"
            )
        keys.leave(_DECODER, "the decoder")
        named = {name: keys.see(name) for name in keys.names()}
        width = shape_of(named, FIRST)[0]
        trunk = trunk_of(named, heads_of(width, self.heads), self.title)
        hidden, _ = shape_of(named, "pos_embed.0.weight")
        first = keys.take("encoder.first_conv.0.weight", None, None, 1)
        second = keys.take("encoder.first_conv.3.weight", None, first.shape[0], 1)
        joint = keys.take("encoder.second_conv.0.weight", None, 2 * second.shape[0], 1)[..., 0]
        half = second.shape[0]
        encoder = vit.Config(
            **trunk.settings,
            tokenizer=tokenizer.Config(
                stride=self.stride,
                group_size=self.group_size,
                channels=first.shape[1],
                widths=(first.shape[0], half, joint.shape[0]),
                norm="batch",
            ),
            size=(64 * self.stride,),
            position=PositionConfig(kind="mlp", hidden=hidden, every_block=True),
            class_token=False,
            norm_eps=1e-5,
        )
        tensors = {
            "mask_token": no_mask_token(width),
            "tokenizer.point.0.weight": first[..., 0],
            "tokenizer.point.0.bias": keys.take("encoder.first_conv.0.bias"),
            **_batch_norm(keys, "encoder.first_conv.1", "tokenizer.point.1"),
            "tokenizer.point.3.weight": second[..., 0],
            "tokenizer.point.3.bias": keys.take("encoder.first_conv.3.bias"),
            "tokenizer.whole.weight": joint[:, :half],  # the maximum of the group stands first
            "tokenizer.whole.bias": keys.take("encoder.second_conv.0.bias"),
            "tokenizer.own.weight": joint[:, half:],
            **_batch_norm(keys, "encoder.second_conv.1", "tokenizer.projection.0"),
            "tokenizer.projection.2.weight": keys.take("encoder.second_conv.3.weight", width, None, 1)[..., 0],
            "tokenizer.projection.2.bias": keys.take("encoder.second_conv.3.bias"),
            **{
                f"positions.network.{layer}.{kind}": keys.take(f"pos_embed.{layer}.{kind}")
                for layer in (0, 2)
                for kind in ("weight", "bias")
            },
            **take_blocks(keys, trunk),
            **take_norm(keys, trunk),
        }
        keys.finish()
        evaluation = EvaluationConfig(size=64 * self.stride, channels=first.shape[1], up="y")
        return Converted(encoder, "points", evaluation, tensors, keys.left_out)

    def build(self) -> Config:
        """The source itself."""
        return self


def _encoder(state: State) -> dict[str, Tensor]:
    """Names without that of the encoder, and of the module that holds its blocks; those of the decoder as they are."""
    starts = (("MAE_encoder.blocks.blocks.", "blocks."), ("MAE_encoder.", ""), ("blocks.blocks.", "blocks."))
    named = {}
    for name, tensor in state.items():
        start, ours = next(((start, ours) for start, ours in starts if name.startswith(start)), ("", ""))
        named[ours + name.removeprefix(start)] = tensor
    return named


def _batch_norm(keys: Keys, theirs: str, ours: str) -> dict[str, Tensor]:
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return {f"{ours}.{part}": keys.take(f"{theirs}.{part}") for part in parts}
