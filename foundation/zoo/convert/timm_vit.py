"""Weights of timm's ``VisionTransformer`` with a class token, such as ``vit_base_patch16_224`` or ``deit_small``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foundation.encoders.positions import PositionConfig
from foundation.errors import UserError
from foundation.modalities.image.evaluation import EvaluationConfig
from foundation.zoo.convert.base import Converted, Keys, State, shape_of
from foundation.zoo.convert.blocks import FIRST, heads_of, trunk_of
from foundation.zoo.convert.images import PROJECTION, is_plain, settings_of, side_of, take_plain
from foundation.zoo.convert.mae import HEADS

_COLOURS = {
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
_UNKNOWN = ("norm_pre.weight", "blocks.0.attn.q_norm.weight", "blocks.0.attn.norm.weight", "pos_embed_win")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A timm vision transformer as one of ours (it can then be cut, masked and packed); as it is: ``timm:NAME``."""

    heads: int | None = None
    """Attention heads; None: as many of width 64 as there are, 16 for a width of 1280."""
    colours: Literal["inception", "imagenet", "clip"] = "inception"
    """Mean and deviation of its images, which the file does not say: most of timm's own have 0.5 (``inception``), DeiT,
    DINO and MAE those of ImageNet."""
    norm_eps: float = 1e-6
    """Small number inside the norms."""

    @property
    def title(self) -> str:
        return "timm's VisionTransformer"

    def matches(self, state: State) -> bool:
        strange = ("mask_token", "masked_embed", "decoder_embed.weight", "register_tokens", *_UNKNOWN)
        return is_plain(state) and not any(name in state for name in strange)

    def convert(self, state: State) -> Converted:
        if self.colours not in _COLOURS:
            raise UserError(f"colours is {self.colours!r}: choose {', '.join(_COLOURS)}")
        if "fc_norm.weight" in state and "norm.weight" not in state:
            raise UserError(
                "this timm model norms the mean of its patches alone: use it as it is, timm:NAME,weights=FILE"
            )
        keys, width = Keys(state, self.title), shape_of(state, FIRST)[0]
        trunk = trunk_of(state, heads_of(width, self.heads, HEADS), self.title)
        registers = keys.take_if("reg_token", 1, None, width)
        count = 0 if registers is None else registers.shape[1]
        table, registers = _tables(keys.take("pos_embed", 1, None, width), registers)
        side = side_of(table.shape[1] - 1, self.title)
        encoder = settings_of(
            trunk, keys.see(PROJECTION), side, PositionConfig(antialias=True), self.title, registers=count,
            norm_eps=self.norm_eps,
        )  # fmt: skip
        keys.leave(("head.", "head_dist.", "fc_norm."), "the classifier")
        tensors = take_plain(keys, trunk, table=table)
        keys.finish()
        if registers is not None:
            tensors["register_tokens"] = registers
        mean, std = _COLOURS[self.colours]
        evaluation = EvaluationConfig(
            size=encoder.size[0],
            crop_fraction=0.9,
            resize_below=1,
            mean=mean,
            std=std,  # type: ignore[arg-type]
        )
        note = f"images are normalised as 'colours={self.colours}' says: compare with the page of the weights"
        return Converted(encoder, "image", evaluation, tensors, keys.left_out, (note,))

    def build(self) -> Config:
        """The source itself."""
        return self


def _tables(positions: Tensor, registers: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Positions [1, 1 + N, D] of class token and patches, and registers with their own.

    Args:
        positions: of the patches alone, of class token and patches, or of all tokens.
        registers: without positions, or None.
    """
    count = 0 if registers is None else registers.shape[1]
    rows = positions.shape[1]
    if math.isqrt(rows) ** 2 == rows:
        return torch.cat((torch.zeros_like(positions[:, :1]), positions), dim=1), registers
    if registers is not None and math.isqrt(rows - 1 - count) ** 2 == rows - 1 - count:
        return torch.cat((positions[:, :1], positions[:, 1 + count :]), dim=1), registers + positions[:, 1 : 1 + count]
    return positions, registers
