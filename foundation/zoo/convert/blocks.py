"""What nearly all released vision transformers call the parts of their blocks (timm's names), and what shapes tell."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from foundation.encoders.blocks import FeedForward
from foundation.errors import UserError
from foundation.zoo.convert.base import Keys, State, shape_of

FIRST = "blocks.0.norm1.weight"
_RULES = [
    (r"^pos_embed$", "positions.table"),
    (r"^(storage|reg|register)_tokens?$", "register_tokens"),
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
    """Our name of a parameter."""
    for pattern, ours in _RULES:
        name = re.sub(pattern, ours, name)
    return name


def flat(state: State) -> dict[str, Tensor]:
    """The same with ``blocks.3.``; where blocks are kept in chunks, they are called ``blocks.0.3.``."""
    return {re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", name): tensor for name, tensor in state.items()}


@dataclass(frozen=True)
class Trunk:
    """What the shapes of blocks say.

    Attributes:
        width: D of a token.
        depth: number of blocks.
        heads: of the attention.
        ffn: kind of the feed-forward part.
        mlp_ratio: of the encoder's Config.
        qkv_bias: likewise.
        layer_scale: whether there is one; its start value, which is not known, matters no more.
        norm: ``rmsnorm`` where norms have no bias.
    """

    width: int
    depth: int
    heads: int
    ffn: FeedForward
    mlp_ratio: float
    qkv_bias: bool
    layer_scale: float | None
    norm: Literal["layernorm", "rmsnorm"]

    @property
    def settings(self) -> dict[str, Any]:
        """As fields of the encoder's Config."""
        return {"preset": None, **self.__dict__}


def heads_of(width: int, given: int | None, published: dict[int, int] | None = None, head_width: int = 64) -> int:
    """Attention heads: those given, else the published ones of that width, else as many of 64 as go into it.

    Raises:
        UserError: the width cannot be cut into equal heads.
    """
    heads = given or (published or {}).get(width) or width // head_width
    if heads < 1 or width % heads:
        raise UserError(
            f"tokens of width {width} cannot be cut into {heads or 'heads of ' + str(head_width)}: say how many heads "
            "there are, FILE,as=SOURCE,heads=N"
        )
    return heads


def depth_of(state: State) -> int:
    """Number of blocks, one more than the highest number."""
    numbers = [int(found[1]) for name in state if (found := re.match(r"blocks\.(\d+)\.", name))]
    return 1 + max(numbers, default=-1)


def trunk_of(state: State, heads: int, source: str) -> Trunk:
    """Read the shapes.

    Args:
        state: with flat names.
        heads: of the attention.
        source: for messages.

    Raises:
        UserError: there is no feed-forward part that is known.
    """
    (width,) = shape_of(state, FIRST) or (0,)
    start = "blocks.0.mlp."
    if hidden := shape_of(state, start + "fc1.weight"):
        ffn: FeedForward = "mlp"
        ratio = hidden[0] / width
        if int(ratio * width) < hidden[0]:  # 48 / 11 of 1408
            ratio = math.nextafter(ratio, math.inf)
    elif hidden := shape_of(state, start + "w12.weight"):
        ffn, ratio = _gated(hidden[0] // 2, width, source)
    elif hidden := shape_of(state, start + "w1.weight"):
        ffn, ratio = _gated(hidden[0], width, source)
    else:
        raise UserError(f"weights of {source}: {start}fc1.weight is missing, and no other feed-forward part is known")
    return Trunk(
        width=width,
        depth=depth_of(state),
        heads=heads,
        ffn=ffn,
        mlp_ratio=ratio,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in state else None,
        norm="layernorm" if "blocks.0.norm1.bias" in state else "rmsnorm",
    )


def _gated(hidden: int, width: int, source: str) -> tuple[FeedForward, float]:
    """Kind and ratio of a gated part of that hidden width: published ratios where they lead to it."""
    for ratio in (4.0, 6.0, 3.0, 1.5 * hidden / width):
        two_thirds = int(int(width * ratio) * 2 / 3)
        for kind, multiple in (("swiglu", 8), ("swiglu64", 64)):
            if math.ceil(two_thirds / multiple) * multiple == hidden:
                return kind, ratio  # type: ignore[return-value]
    raise UserError(f"weights of {source}: a gated feed-forward part of {hidden} numbers for {width} is not known")


def take_blocks(keys: Keys, trunk: Trunk, alter: Callable[[str, Tensor], Tensor] | None = None) -> dict[str, Tensor]:
    """Tensors of all blocks under our names.

    Args:
        keys: with flat names.
        trunk: what they must be.
        alter: may change a tensor, by its foreign name.

    Raises:
        UserError: one is missing.
    """
    wanted = ["norm1.weight", "attn.qkv.weight", "attn.proj.weight", "attn.proj.bias", "norm2.weight"]
    wanted += ["norm1.bias", "norm2.bias"] * (trunk.norm == "layernorm") + ["attn.qkv.bias"] * trunk.qkv_bias
    wanted += ["ls1.gamma", "ls2.gamma"] * (trunk.layer_scale is not None)
    apart = "blocks.0.mlp.w1.weight" in keys
    hidden, out = ("fc1", "fc2") if trunk.ffn == "mlp" else ("w12", "w3")
    wanted += [f"mlp.{layer}.{kind}" for layer in (hidden, out) for kind in ("weight", "bias")]
    found: dict[str, Tensor] = {}
    for number in range(trunk.depth):
        for part in wanted:
            name = f"blocks.{number}.{part}"
            if apart and ".w12." in name:  # the two halves of the gated layer
                tensor = torch.cat([keys.take(name.replace(".w12.", half)) for half in (".w1.", ".w2.")])
            else:
                tensor = keys.take(name)
            found[our_name(name)] = tensor if alter is None else alter(name, tensor)
    return found


def take_norm(keys: Keys, trunk: Trunk, name: str = "norm", ours: str = "trunk.norm") -> dict[str, Tensor]:
    """A norm under our name.

    Raises:
        UserError: it is missing.
    """
    parts = ("weight", "bias") if trunk.norm == "layernorm" else ("weight",)
    return {f"{ours}.{part}": keys.take(f"{name}.{part}", trunk.width) for part in parts}
