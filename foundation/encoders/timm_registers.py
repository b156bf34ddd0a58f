"""Registers for vision transformers of timm that have none: timm's own, without positions.

Where a model's table of positions begins with that of the class token, it is added to the class token and leaves the
table, which changes no number: what timm adds in each pass is added once.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from foundation.encoders.timm_models import Outline
from foundation.errors import UserError

TOKEN, POSITIONS, CLASS = "reg_token", "pos_embed", "cls_token"


def arguments(registers: int) -> dict[str, Any]:
    """Arguments of timm for so many registers; none for none."""
    return {"reg_tokens": registers, "no_embed_class": True} if registers else {}


def check(outline: Outline) -> None:
    """Refuse a model that cannot be given registers.

    Raises:
        UserError: says why, and which can.
    """
    transformer: Any = importlib.import_module("timm.models.vision_transformer").VisionTransformer
    model = outline.model
    if not isinstance(model, transformer):
        why = f"it is a {type(model).__name__}, and timm adds registers to plain vision transformers"
    elif model.num_reg_tokens:
        why = f"it has {model.num_reg_tokens} already: leave encoder.registers out"
    elif model.num_prefix_tokens > int(model.has_class_token):
        why = "it has another token beside the class token"
    else:
        return
    raise UserError(
        f"timm model {outline.name!r} cannot be given registers: {why} (those such as vit_base_patch16_224 can)"
    )


@torch.no_grad()
def reset(model: Any) -> None:
    """Draw registers from N(0, 1 / width) (PH-Reg): alike, as timm has them at first, they would learn the same."""
    nn.init.normal_(model.reg_token, std=model.reg_token.shape[-1] ** -0.5)


def adopted(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a model without registers as the same with registers has them; with registers as they are.

    Args:
        weights: of timm's model.
        own: those of the model with registers, of which the registers are taken.
    """
    found = dict(weights)
    if TOKEN in found:
        return found
    found[TOKEN] = own[TOKEN].clone()
    positions, wanted = found.get(POSITIONS), own.get(POSITIONS)
    if positions is None or wanted is None or CLASS not in found:
        return found
    if positions.shape[1] == wanted.shape[1] + 1:
        found[CLASS] = found[CLASS] + positions[:, :1]
        found[POSITIONS] = positions[:, 1:].contiguous()
    return found
