"""Weights of DINOv2 (Oquab et al. 2024, facebookresearch/dinov2), also with registers (Darcet et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from foundation.encoders.positions import PositionConfig
from foundation.zoo.convert.base import Converted, Keys, State, shape_of
from foundation.zoo.convert.blocks import FIRST, flat, heads_of, trunk_of
from foundation.zoo.convert.dino import OFFSET
from foundation.zoo.convert.images import PROJECTION, crop, is_plain, settings_of, side_of, take_plain
from foundation.zoo.convert.spelled import official


@dataclass(frozen=True, kw_only=True)
class Config:
    """``dinov2_vit{s,b,l,g}14_pretrain.pth`` and ``dinov2_vit{s,b,l,g}14_reg4_pretrain.pth``, and checkpoints of its
    training."""

    heads: int | None = None
    """Attention heads; None: as many of width 64 as there are."""

    @property
    def title(self) -> str:
        return "DINOv2 (Oquab et al. 2024)"

    def matches(self, state: State) -> bool:
        named = flat(official(state))
        return is_plain(named) and len(shape_of(named, "mask_token")) == 2 and "blocks.0.ls1.gamma" in named

    def convert(self, state: State) -> Converted:
        named = flat(official(state))
        keys, width = Keys(named, self.title), shape_of(named, FIRST)[0]
        trunk = trunk_of(named, heads_of(width, self.heads), self.title)
        side = side_of(shape_of(named, "pos_embed")[1] - 1, self.title)
        registers = keys.take_if("register_tokens", 1, None, width)
        count = 0 if registers is None else registers.shape[1]
        # The two families resize positions in two ways.
        position = PositionConfig(antialias=True) if count else PositionConfig(offset=OFFSET)
        encoder = settings_of(
            trunk, keys.see(PROJECTION), side, position, self.title, registers=count, token_std=1e-6
        )  # fmt: skip
        tensors = take_plain(keys, trunk, keys.take("mask_token", 1, width))
        if registers is not None:
            tensors["register_tokens"] = registers
        keys.finish()
        return Converted(encoder, "image", crop(), tensors, keys.left_out)

    def build(self) -> Config:
        """The source itself."""
        return self
