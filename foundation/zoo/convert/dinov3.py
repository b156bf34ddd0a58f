"""Weights of the vision transformers of DINOv3 (Siméoni et al. 2025, facebookresearch/dinov3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from foundation.encoders.positions import PositionConfig
from foundation.zoo.convert.base import Converted, Keys, State, shape_of
from foundation.zoo.convert.blocks import FIRST, flat, heads_of, take_blocks, take_norm, trunk_of
from foundation.zoo.convert.images import PROJECTION, crop, settings_of, take_projection
from foundation.zoo.convert.spelled import official

_HEADS = {4096: 32}
_BASE = 100.0
_GRID = 16


@dataclass(frozen=True, kw_only=True)
class Config:
    """``dinov3_vit{s,b,l,h,7b}16*_pretrain_*.pth``; its ConvNeXts are no encoders of this kind."""

    heads: int | None = None
    """Attention heads; None: as many of width 64 as there are, 32 in the one of width 4096."""
    norm_eps: float = 1e-5
    """Small number inside the norms; all released ones have 1e-5."""
    normalise: Literal["separate", "max", "min"] = "separate"
    """By what side patch centres are divided; all released ones: each by its own."""

    @property
    def title(self) -> str:
        return "DINOv3 (Siméoni et al. 2025)"

    def matches(self, state: State) -> bool:
        named = flat(official(state))
        return (
            len(shape_of(named, PROJECTION)) == 4
            and "cls_token" in named
            and "pos_embed" not in named
            and FIRST in named
            and ("storage_tokens" in named or "rope_embed.periods" in named)
        )

    def convert(self, state: State) -> Converted:
        named = flat(official(state))
        keys, width = Keys(named, self.title), shape_of(named, FIRST)[0]
        trunk = trunk_of(named, heads_of(width, self.heads, _HEADS), self.title)
        registers = keys.take_if("storage_tokens", 1, None, width)
        apart = "cls_norm.weight" in keys
        masked = [name for name in keys.names("blocks.") if name.endswith(".attn.qkv.bias_mask")]
        position = _position(keys.take_if("rope_embed.periods", None), self.normalise)
        count = 0 if registers is None else registers.shape[1]
        encoder = settings_of(
            trunk, keys.see(PROJECTION), _GRID, position, self.title, registers=count, norm_eps=self.norm_eps,
            separate_class_norm=apart, zero_key_bias=bool(masked),
        )  # fmt: skip
        tensors = {
            "cls_token": keys.take("cls_token", 1, 1, width),
            "mask_token": keys.take("mask_token", 1, width),
            **take_projection(keys, width),
            **take_blocks(keys, trunk),
            **take_norm(keys, trunk),
            **(take_norm(keys, trunk, "cls_norm", "trunk.class_norm") if apart else {}),
        }
        if registers is not None:
            tensors["register_tokens"] = registers
        keys.leave(masked, "the keys' bias is held at 0")
        keys.leave(("local_cls_norm.",), "norm of class tokens of small crops, for training alone")
        keys.finish()
        return Converted(encoder, "image", crop(), tensors, keys.left_out)

    def build(self) -> Config:
        """The source itself."""
        return self


def _position(periods: Tensor | None, normalise: Literal["separate", "max", "min"]) -> PositionConfig:
    """Rotary positions whose periods are those of the file; without any, the published base."""
    plain = PositionConfig(kind="rotary", base=_BASE, normalise=normalise)
    if periods is None:
        return plain
    values = periods.double()
    if abs(float(values[0]) - 1) < 1e-6:
        base = float(values[-1]) ** (len(values) / max(len(values) - 1, 1))
        return replace(plain, base=_rounded(base))
    low, high = (_rounded(float(values[place])) for place in (0, -1))
    return replace(plain, base=None, min_period=low, max_period=high)


def _rounded(number: float) -> float:
    """Without the noise of 32 bits (100.00001), or of bfloat16 where the file has those."""
    close = float(f"{number:.4g}")
    return close if abs(close - number) <= 1e-2 * abs(number) else number
