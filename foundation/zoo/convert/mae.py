"""Weights of MAE (He et al. 2022, facebookresearch/mae): ``mae_pretrain_vit_{base,large,huge}.pth``."""

from __future__ import annotations

from dataclasses import dataclass

from foundation.encoders.positions import PositionConfig
from foundation.zoo.convert.base import Converted, Keys, State, shape_of
from foundation.zoo.convert.blocks import FIRST, heads_of, trunk_of
from foundation.zoo.convert.dino import STRANGE
from foundation.zoo.convert.images import PROJECTION, crop, is_plain, settings_of, side_of, take_plain
from foundation.zoo.convert.spelled import official

HEADS = {1280: 16}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The encoder of a masked autoencoder; a decoder in the file is left out, with its mask token."""

    heads: int | None = None
    """Attention heads; None: as many of width 64 as there are, 16 in the huge one."""

    @property
    def title(self) -> str:
        return "MAE (He et al. 2022)"

    def matches(self, state: State) -> bool:
        state = official(state)
        decoder = "decoder_embed.weight" in state
        strange = {*STRANGE, "blocks.0.ls1.gamma", "reg_token", "head.weight"}
        strange -= {"decoder_embed.weight", "mask_token"} if decoder else set()
        return is_plain(state) and not any(name in state for name in strange)

    def convert(self, state: State) -> Converted:
        state = official(state)
        keys, width = Keys(state, self.title), shape_of(state, FIRST)[0]
        trunk = trunk_of(state, heads_of(width, self.heads, HEADS), self.title)
        side = side_of(shape_of(state, "pos_embed")[1] - 1, self.title)
        encoder = settings_of(trunk, keys.see(PROJECTION), side, PositionConfig(), self.title)
        keys.leave(("decoder_", "mask_token"), "the decoder")
        tensors = take_plain(keys, trunk)
        keys.finish()
        note = "mean patch tokens say more than the class token, which MAE does not train"
        return Converted(encoder, "image", crop(), tensors, keys.left_out, (note,))

    def build(self) -> Config:
        """The source itself."""
        return self
