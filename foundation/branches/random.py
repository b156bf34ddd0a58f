"""A teacher of random weights that never learns (Sariyildiz et al., "Random Teachers are Good Teachers", 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from foundation import counter
from foundation.branches.base import BranchContext
from foundation.branches.copies import StillBranch, branch_of
from foundation.branches.trained import make
from foundation.ranges import Share, check
from foundation.seeded import seeded


@dataclass(frozen=True, kw_only=True)
class Config:
    """Weights drawn once, of the same encoder and heads as another branch."""

    of: str = "student"
    """Branch whose encoder and heads it has."""
    distance: Share = 1.0
    """How far from that branch's first weights: 1 is independent of them, 0 the same, between them the weighted mean of
    both (the paper's locality)."""

    def __post_init__(self) -> None:
        check(self, "random")

    def build(self, context: BranchContext) -> StillBranch:
        """The branch; its weights follow from the seed and its name."""
        source = branch_of(context, self.of)
        drawn = StillBranch(source)
        with seeded(int(counter.bits(context.seed, 0, 0, f"branch.{context.name}", 1)[0][0])):
            fresh = make(source.encoder.config, source.configs)
        with torch.no_grad():
            for own, new in zip(drawn.parameters(), fresh.parameters(), strict=True):
                own.lerp_(new, self.distance)
        return drawn
