"""What sources of plain vision transformers for images share: square patches, class token, learned positions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from foundation.encoders import vit
from foundation.encoders.positions import PositionConfig
from foundation.errors import UserError
from foundation.modalities.image import tokenizer
from foundation.modalities.image.evaluation import EvaluationConfig
from foundation.zoo.convert.base import Keys, State, no_mask_token, shape_of
from foundation.zoo.convert.blocks import FIRST, Trunk, take_blocks, take_norm

PROJECTION = "patch_embed.proj.weight"


def is_plain(state: State) -> bool:
    """Whether these can be of a vision transformer for images with class token and learned positions."""
    return (
        FIRST in state
        and "blocks.0.attn.qkv.weight" in state
        and len(shape_of(state, PROJECTION)) == 4
        and len(shape_of(state, "cls_token")) == 3
        and len(shape_of(state, "pos_embed")) == 3
    )


def side_of(tokens: int, source: str) -> int:
    """Side of a square grid of so many patches.

    Raises:
        UserError: it is no square.
    """
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise UserError(f"weights of {source}: {tokens} positions are no square grid of patches")
    return side


def settings_of(
    trunk: Trunk, patches: Tensor, side: int, position: PositionConfig, source: str, **more: Any
) -> vit.Config:
    """Config of the encoder.

    Args:
        trunk: its blocks.
        patches: weights of the patch projection, [D, channels, patch, patch].
        side: of the grid, in patches, that positions are trained at.
        position: kind of positions.
        source: for messages.
        more: further fields.

    Raises:
        UserError: patches are no squares.
    """
    _, channels, height, width = patches.shape
    if height != width:
        raise UserError(f"weights of {source}: patches of {height} x {width} pixels are no squares")
    return vit.Config(
        **trunk.settings,
        tokenizer=tokenizer.Config(patch_size=height, channels=channels),
        size=(side * height, side * height),
        position=position,
        **more,
    )


def take_plain(
    keys: Keys, trunk: Trunk, mask_token: Tensor | None = None, table: Tensor | None = None
) -> dict[str, Tensor]:
    """Class token, positions, patch projection, blocks and norm under our names.

    Args:
        keys: what there is.
        trunk: what the blocks are.
        mask_token: of D numbers; None: there is none.
        table: positions [1, 1 + N, D] in place of ``pos_embed``.
    """
    width = trunk.width
    return {
        "cls_token": keys.take("cls_token", 1, 1, width),
        "mask_token": no_mask_token(width) if mask_token is None else mask_token.reshape(1, width),
        "positions.table": keys.take("pos_embed", 1, None, width) if table is None else table,
        **take_projection(keys, width),
        **take_blocks(keys, trunk),
        **take_norm(keys, trunk),
    }


def take_projection(keys: Keys, width: int) -> dict[str, Tensor]:
    """Patch projection under our names; a bias that was left out is 0."""
    bias = keys.take_if("patch_embed.proj.bias", width)
    return {
        "tokenizer.projection.weight": keys.take(PROJECTION),
        "tokenizer.projection.bias": torch.zeros(width) if bias is None else bias,
    }


def crop(size: int = 224, **more: Any) -> EvaluationConfig:
    """The usual view: the shorter side to 8 / 7 of the size, bicubic, centre crop, mean and deviation of ImageNet."""
    return EvaluationConfig(size=size, crop_fraction=0.875, resize_below=1, **more)
