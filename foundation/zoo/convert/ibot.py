"""Weights of iBOT (Zhou et al. 2022, bytedance/ibot): ``checkpoint_teacher.pth`` and ``checkpoint_student.pth``."""

from __future__ import annotations

from dataclasses import dataclass

from foundation.encoders.positions import PositionConfig
from foundation.zoo.convert.base import Converted, Keys, State, shape_of
from foundation.zoo.convert.blocks import FIRST, heads_of, trunk_of
from foundation.zoo.convert.dino import OFFSET, STRANGE
from foundation.zoo.convert.images import PROJECTION, crop, is_plain, settings_of, side_of, take_plain


@dataclass(frozen=True, kw_only=True)
class Config:
    """iBOT's vision transformers. The student has a mask token (``masked_embed``), the teacher none."""

    heads: int | None = None
    """Attention heads; None: as many of width 64 as there are."""

    @property
    def title(self) -> str:
        return "iBOT (Zhou et al. 2022)"

    def matches(self, state: State) -> bool:
        strange = {*STRANGE, "blocks.0.ls1.gamma", "reg_token", "head.weight"} - {"masked_embed"}
        return is_plain(state) and not any(name in state for name in strange)

    def convert(self, state: State) -> Converted:
        keys, width = Keys(state, self.title), shape_of(state, FIRST)[0]
        trunk = trunk_of(state, heads_of(width, self.heads), self.title)
        side = side_of(shape_of(state, "pos_embed")[1] - 1, self.title)
        encoder = settings_of(trunk, keys.see(PROJECTION), side, PositionConfig(offset=OFFSET), self.title)
        keys.leave(("head.",), "the head of the training")
        tensors = take_plain(keys, trunk, keys.take_if("masked_embed"))
        keys.finish()
        return Converted(encoder, "image", crop(), tensors, keys.left_out)

    def build(self) -> Config:
        """The source itself."""
        return self
