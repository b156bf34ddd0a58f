"""Weights of V-JEPA 2 (Assran et al. 2025, facebookresearch/vjepa2): ``vitl.pt``, ``vith.pt``, ``vitg.pt``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foundation.encoders import vit
from foundation.encoders.positions import PositionConfig
from foundation.modalities.video import tokenizer
from foundation.modalities.video.evaluation import EvaluationConfig
from foundation.zoo.convert.base import Converted, Keys, State, no_mask_token, shape_of
from foundation.zoo.convert.blocks import FIRST, flat, heads_of, take_blocks, take_norm, trunk_of
from foundation.zoo.convert.images import PROJECTION, take_projection
from foundation.zoo.convert.spelled import official

POSITION = PositionConfig(kind="rotary", base=10000.0, normalise="none", frequencies="neighbour")
"""Rotary positions as the release has them."""
_HEADS = {1280: 16}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The encoder of V-JEPA 2 with rotary positions; where a file has several, the teacher's (``target_encoder``)."""

    heads: int | None = None
    """Attention heads; None: as many of width 64 as there are, 16 in the huge one."""
    frames: int = 64
    """Frames of a clip that features are read from; the files tell nothing of it (64 in most of the released ones)."""
    size: int = 256
    """Height and width of a clip, pixels; likewise (384 in ``vitg-384.pt``)."""

    @property
    def title(self) -> str:
        return "V-JEPA 2 (Assran et al. 2025)"

    def matches(self, state: State) -> bool:
        state = official(state)
        return (
            len(shape_of(state, PROJECTION)) == 5 and FIRST in state and "pos_embed" not in state
            and "cls_token" not in state
        )  # fmt: skip

    def convert(self, state: State) -> Converted:
        named = flat(official(state))
        keys, width = Keys(named, self.title), shape_of(named, FIRST)[0]
        heads = heads_of(width, self.heads, _HEADS)
        trunk = trunk_of(named, heads, self.title)
        tubelet, side = keys.see(PROJECTION).shape[2:4]
        encoder = vit.Config(
            **trunk.settings,
            tokenizer=tokenizer.Config(tubelet=tubelet, patch_size=side, channels=keys.see(PROJECTION).shape[1]),
            size=(self.frames, self.size, self.size),
            position=POSITION,
            class_token=False,
        )

        def alter(name: str, tensor: Tensor) -> Tensor:
            return reordered(tensor, heads) if ".attn.qkv." in name else tensor

        tensors = {
            "mask_token": no_mask_token(width),
            **take_projection(keys, width),
            **take_blocks(keys, trunk, alter),
            **take_norm(keys, trunk),
        }
        keys.finish()
        evaluation = EvaluationConfig(frames=self.frames, size=self.size, crop_fraction=0.875, resize_below=1)
        return Converted(encoder, "video", evaluation, tensors, keys.left_out)

    def build(self) -> Config:
        """The source itself."""
        return self


def order_of_heads(head_width: int, axes: int = 3) -> Tensor:
    """[head_width] the place in a head of theirs of each place of ours.

    There a head's pairs are neighbours (2 k, 2 k + 1) of each axis's part, here places i and i + half a head.
    """
    count, half = head_width // (2 * axes), head_width // 2
    first = torch.cat([axis * 2 * count + 2 * torch.arange(count) for axis in range(axes)])
    rest = torch.arange(2 * axes * count, head_width)
    left = half - len(first)
    return torch.cat((first, rest[:left], first + 1, rest[left:]))


def reordered(qkv: Tensor, heads: int) -> Tensor:
    """Weights or biases of queries, keys and values, [3 D, ...], with each head of queries and keys in our order."""
    joint = qkv.unflatten(0, (3, heads, -1)).clone()
    joint[:2] = joint[:2, :, order_of_heads(joint.shape[2])]
    return joint.flatten(0, 2)
