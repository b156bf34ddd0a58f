"""Weights of the DINOv2 and DINOv3 references under our names."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

_RULES = [
    (r"^pos_embed$", "positions.table"),
    (r"^storage_tokens$", "register_tokens"),
    (r"^patch_embed\.proj\.", "tokenizer.projection."),
    (r"^norm\.", "trunk.norm."),
    (r"^cls_norm\.", "trunk.class_norm."),
    (r"^blocks\.", "trunk.blocks."),
    (r"\.norm1\.", ".attention_norm."),
    (r"\.norm2\.", ".ffn_norm."),
    (r"\.attn\.qkv\.", ".attention.qkv."),
    (r"\.attn\.proj\.", ".attention.out."),
    (r"\.ls1\.gamma$", ".attention_scale"),
    (r"\.ls2\.gamma$", ".ffn_scale"),
    (r"\.mlp\.(fc1|w12)\.", ".ffn.hidden."),
    (r"\.mlp\.(fc2|w3)\.", ".ffn.out."),
]


def our_name(name: str) -> str:
    """Our name of a reference parameter."""
    for pattern, ours in _RULES:
        name = re.sub(pattern, ours, name)
    return name


def our_weights(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """State dict of our encoder from the ``param/`` entries of a golden file."""
    weights = {k.removeprefix("param/"): torch.from_numpy(v) for k, v in arrays.items() if k.startswith("param/")}
    result = {}
    for name, value in weights.items():
        if ".mlp.w1." in name:  # DINOv3 keeps the two halves of the gated layer apart
            both = torch.cat((value, weights[name.replace(".w1.", ".w2.")]))
            result[our_name(name.replace(".w1.", ".w12."))] = both
        elif not (".mlp.w2." in name or name.endswith("bias_mask") or name == "rope_embed.periods"):
            result[our_name(name)] = value
    return result
