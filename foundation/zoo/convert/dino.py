"""Weights of DINO (Caron et al. 2021, facebookresearch/dino): ``dino_deitsmall16_pretrain.pth`` and its kin."""

from __future__ import annotations

from dataclasses import dataclass

from foundation.encoders.positions import PositionConfig
from foundation.zoo.convert.base import Converted, Keys, State, shape_of
from foundation.zoo.convert.blocks import FIRST, heads_of, trunk_of
from foundation.zoo.convert.images import PROJECTION, crop, is_plain, settings_of, side_of, take_plain
from foundation.zoo.convert.spelled import official

STRANGE = ("mask_token", "masked_embed", "decoder_embed.weight", "norm_pre.weight", "fc_norm.weight")
"""Parts that a plain vision transformer of DINO does not have."""
OFFSET = 0.1
"""Added to the wanted grid before positions are resized, in DINO, iBOT and DINOv2."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """DINO's vision transformers; its ResNets are no encoders of this kind."""

    heads: int | None = None
    """Attention heads; None: as many of width 64 as there are."""

    @property
    def title(self) -> str:
        return "DINO (Caron et al. 2021)"

    def matches(self, state: State) -> bool:
        state = official(state)
        extra = any(name in state for name in (*STRANGE, "blocks.0.ls1.gamma", "reg_token", "head.weight"))
        return is_plain(state) and not extra

    def convert(self, state: State) -> Converted:
        state = official(state)
        keys, width = Keys(state, self.title), shape_of(state, FIRST)[0]
        trunk = trunk_of(state, heads_of(width, self.heads), self.title)
        side = side_of(shape_of(state, "pos_embed")[1] - 1, self.title)
        position = PositionConfig(offset=OFFSET)
        encoder = settings_of(trunk, keys.see(PROJECTION), side, position, self.title)
        keys.leave(("head.",), "the head of the training")
        tensors = take_plain(keys, trunk)
        keys.finish()
        return Converted(encoder, "image", crop(), tensors, keys.left_out)

    def build(self) -> Config:
        """The source itself."""
        return self
