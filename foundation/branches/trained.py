"""A trained branch: its own encoder and heads, which gradients reach. The student is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch

from foundation import counter
from foundation.branches.base import BranchContext, EncoderBranch
from foundation.plugins import Plugin
from foundation.seeded import seeded


@dataclass(frozen=True, kw_only=True)
class Config:
    """An encoder with heads that is trained. ``student`` is one of the recipe's ``encoder`` and ``heads``; name further
    ones here."""

    encoder: Annotated[Any, Plugin("foundation.encoders.{name}")] | None = None
    """None: the recipe's ``encoder``."""
    heads: dict[str, Annotated[Any, Plugin("foundation.heads.{name}", usual="prototypes")]] | None = None
    """Heads by name; None: the recipe's ``heads``."""

    def build(self, context: BranchContext) -> TrainedBranch:
        """The branch, initialised from the seed and its own name; ``student`` from the seed alone."""
        encoder, heads = self.encoder or context.encoder, context.heads if self.heads is None else self.heads
        if context.name == "student":
            torch.manual_seed(context.seed)
            return make(encoder, heads)
        with seeded(int(counter.bits(context.seed, 0, 0, f"branch.{context.name}", 1)[0][0])):
            return make(encoder, heads)


def make(encoder: Any, heads: Any) -> TrainedBranch:
    """Encoder and heads by their Configs, initialised from torch's generator."""
    built = encoder.build()
    return TrainedBranch(built, {name: head.build(built.width) for name, head in heads.items()}, heads)


class TrainedBranch(EncoderBranch):
    """See :class:`Config`."""

    trains = True
    exports = True
