"""A trained branch whose encoder stands still but for low-rank updates of its linear layers (LoRA, Hu et al. 2022)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from foundation.branches.base import BranchContext, EncoderBranch, Weights
from foundation.errors import UserError
from foundation.ranges import Count, Length, Positive, check
from foundation.seeded import seeded

_INSIDE = ".base_layer."
"""In the name of a tensor of a layer that has an update."""
_ADDED = re.compile(r"\.lora_[A-Za-z_]+\.")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The recipe's encoder and heads, of which the heads and the updates are trained. Needs the extra ``finetune``
    (peft)."""

    rank: Count = 8
    """Rank r of an update B A."""
    alpha: Positive = 16.0
    """An update is multiplied by alpha / rank."""
    layers: Annotated[tuple[str, ...], Length(0, 1000)] = ()
    """Linear layers that get one, by how their names end, such as ``qkv`` or ``attention.out``; empty: all linear
    layers of the blocks."""

    def __post_init__(self) -> None:
        check(self, "lora")

    def build(self, context: BranchContext) -> LoraBranch:
        """The branch, initialised from the seed.

        Raises:
            UserError: peft is not there, or no layer has such a name.
        """
        torch.manual_seed(context.seed)
        encoder = context.encoder.build()
        add_updates(self, encoder)
        heads = {name: head.build(encoder.width) for name, head in context.heads.items()}
        return LoraBranch(encoder, heads, context.heads)


class LoraBranch(EncoderBranch):
    """See :class:`Config`. It is not exported: a branch ``best`` of it has the merged weights."""

    trains = True

    def plain_encoder(self) -> dict[str, Tensor]:
        """Weights with the updates merged."""
        from foundation.branches.lora_layer import updates

        added = updates(self.encoder)
        plain: dict[str, Tensor] = {}
        for key, weight in self.encoder.state_dict().items():
            layer, _, name = key.rpartition(_INSIDE)
            if layer in added:
                plain[f"{layer}.{name}"] = weight + added[layer].to(weight) if name == "weight" else weight
            elif not _ADDED.search(key):
                plain[key] = weight
        return plain

    def begin_from(self, weights: Weights) -> None:
        """As of the base: the weights go below the updates, which are none at first."""
        with seeded(0):
            plain = self.encoder.config.build()
        self.begins = weights.apply(plain, dict(self.heads.items()))
        own = self.encoder.state_dict()
        for key, weight in plain.state_dict().items():
            layer, _, name = key.rpartition(".")
            inside = f"{layer}{_INSIDE}{name}"
            own[inside if inside in own else key] = weight
        self.encoder.load_state_dict(own)


def add_updates(config: Config, encoder: Any) -> None:
    """Put updates into linear layers of an encoder, in place.

    Raises:
        UserError: peft is not there, or no layer has such a name.
    """
    try:
        from foundation.branches.lora_layer import inject
    except ImportError as error:
        raise UserError(f"lora needs peft ({error}): pip install 'foundation-pretrain[finetune]'") from None
    names = [
        name
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear) and 1 <= encoder.layer_of(f"{name}.weight") <= encoder.depth
    ]
    chosen = [name for name in names if not config.layers or name.endswith(config.layers)]
    if not chosen:
        wanted = f" called {', '.join(config.layers)}" if config.layers else " in its blocks"
        there = ", ".join(sorted({".".join(name.split(".")[-2:]) for name in names})) or "none"
        raise UserError(f"lora: the encoder has no linear layer{wanted}; there are: {there}")
    inject(encoder, chosen, config.rank, config.alpha)
