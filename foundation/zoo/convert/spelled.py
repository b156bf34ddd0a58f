"""The names that the library transformers gives to the same weights, back to those of the sources.

Files on the Hugging Face hub are spelled so; older files and newer ones differ, and both are read.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from foundation.zoo.convert.base import State

_BLOCK = re.compile(r"(?:(?:encoder|model)\.)?layers?\.(\d+)\.(.+)")
_OUTSIDE = [
    (r"^(?:encoder\.)?embeddings\.cls_token$", "cls_token"),
    (r"^(?:encoder\.)?embeddings\.mask_token$", "mask_token"),
    (r"^(?:encoder\.)?embeddings\.position_embeddings$", "pos_embed"),
    (r"^(?:encoder\.)?embeddings\.register_tokens$", "register_tokens"),
    (r"^(?:encoder\.)?embeddings\.patch_embeddings(?:\.proj(?:ection)?)?\.(weight|bias)$", r"patch_embed.proj.\1"),
    (r"^(?:encoder\.)?(?:layernorm|norm)\.(weight|bias)$", r"norm.\1"),
]
_INSIDE = [
    (r"^layernorm_before\.", "norm1."),
    (r"^layernorm_after\.", "norm2."),
    (r"^layer_scale([12])\.lambda1$", r"ls\1.gamma"),
    (r"^attention\.(?:output\.dense|o_proj|proj)\.", "attn.proj."),
    (r"^attention\.(?:attention\.)?(?:q_proj|query)\.", "attn.q."),
    (r"^attention\.(?:attention\.)?(?:k_proj|key)\.", "attn.k."),
    (r"^attention\.(?:attention\.)?(?:v_proj|value)\.", "attn.v."),
    (r"^intermediate\.dense\.", "mlp.fc1."),
    (r"^output\.dense\.", "mlp.fc2."),
    (r"^mlp\.weights_in\.", "mlp.w12."),
    (r"^mlp\.weights_out\.", "mlp.w3."),
]
_GATED = {"gate_proj": "w1", "up_proj": "w2", "down_proj": "w3"}
_PLAIN = {"up_proj": "fc1", "down_proj": "fc2"}


def official(state: State) -> dict[str, Tensor]:
    """The same weights under the names of the sources, where they have those of transformers; else as they are.

    Queries, keys and values are joined; keys without a bias get 0 and, as in DINOv3, a mark that it stays 0. The
    pooler, which is part of no source, is left away.
    """
    if not any("embeddings.patch_embeddings." in name for name in state):
        return dict(state)
    gated = any(".mlp.gate_proj." in name for name in state)
    found = {_name(name, gated): tensor for name, tensor in state.items() if not name.startswith("pooler.")}
    if "pos_embed" not in found and "cls_token" in found:  # DINOv3
        if "register_tokens" in found:
            found["storage_tokens"] = found.pop("register_tokens")
        if "mask_token" in found and found["mask_token"].ndim == 3:
            found["mask_token"] = found["mask_token"][0]
    return _joined(found)


def _name(name: str, gated: bool) -> str:
    if block := _BLOCK.fullmatch(name):
        inner = block[2]
        for pattern, theirs in _INSIDE:
            inner = re.sub(pattern, theirs, inner)
        for proj, layer in (_GATED if gated else _PLAIN).items():
            inner = inner.replace(f"mlp.{proj}.", f"mlp.{layer}.")
        return f"blocks.{block[1]}.{inner}"
    for pattern, theirs in _OUTSIDE:
        name = re.sub(pattern, theirs, name)
    return name


def _joined(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With ``attn.qkv`` in place of ``attn.q``, ``attn.k`` and ``attn.v``."""
    found = dict(state)
    for name in [name for name in state if name.endswith(".attn.q.weight")]:
        start = name.removesuffix("q.weight")
        three = [found.pop(f"{start}{part}.weight", None) for part in "qkv"]
        if any(part is None for part in three):
            return dict(state)  # cut off: the source names what is missing
        found[f"{start}qkv.weight"] = torch.cat([part for part in three if part is not None])
        biases = {part: found.pop(f"{start}{part}.bias", None) for part in "qkv"}
        query, key, value = biases["q"], biases["k"], biases["v"]
        if query is not None and value is not None:
            found[f"{start}qkv.bias"] = torch.cat((query, torch.zeros_like(query) if key is None else key, value))
            if key is None:
                found[f"{start}qkv.bias_mask"] = torch.ones_like(found[f"{start}qkv.bias"])
    return found
