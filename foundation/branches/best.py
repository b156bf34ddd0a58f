"""A trained branch as it was when a job last found it best: what fine-tuning keeps and exports."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from foundation.branches.base import Branch, BranchContext, EncoderBranch
from foundation.branches.copies import branch_of
from foundation.seeded import seeded


@dataclass(frozen=True, kw_only=True)
class Config:
    """A copy that the job ``validate`` takes whenever the branch does better than ever before; until the first time, as
    the branch was at the start. Its encoder is the recipe's ``encoder``: what a branch adds to it in training
    (``lora``) is merged into its weights."""

    of: str = "student"
    """The branch."""

    def build(self, context: BranchContext) -> BestBranch:
        """The copy.

        Raises:
            UserError: no such branch.
        """
        source = branch_of(context, self.of)
        with seeded(0):
            encoder = context.encoder.build()
        return BestBranch(encoder, source, self.of)


class BestBranch(EncoderBranch):
    """See :class:`Config`.

    Args:
        encoder: as the recipe's ``encoder`` builds it.
        source: what to copy.
        of: its name.
    """

    exports = True
    set_by_job = True

    def __init__(self, encoder: nn.Module, source: EncoderBranch, of: str) -> None:
        super().__init__(encoder, copy.deepcopy(dict(source.heads.items())), source.configs)
        self.of = self.follows = of
        self.requires_grad_(False)
        self.train(False)
        self._copy(source)

    @torch.no_grad()
    def refresh(self, branches: Mapping[str, Branch]) -> None:
        """Copy the branch anew."""
        source = branches[self.of]
        assert isinstance(source, EncoderBranch)
        self._copy(source)

    def _copy(self, source: EncoderBranch) -> None:
        self.encoder.load_state_dict(source.plain_encoder())
        self.heads.load_state_dict(source.heads.state_dict())

    def train(self, mode: bool = True) -> BestBranch:
        """Stays in evaluation mode."""
        super().train(False)
        return self
