"""A branch as it was: at the last epoch (PS-KD's teacher), at the end of the last stage (further pretraining), or when
a job last copied it (DINOv3's Gram teacher).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foundation.branches.base import Branch, BranchContext, EncoderBranch
from foundation.branches.copies import StillBranch, branch_of
from foundation.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Config:
    """A copy of a branch as it was some time ago."""

    of: str = "student"
    """The branch."""
    at: Literal["stage", "epoch", "start", "job"] = "stage"
    """``stage``: at the end of the stage before, whatever encoder it had there. ``epoch``: at the last end of an epoch
    of this stage; until the first, at its start. ``start``: at the start of this stage. ``job``: when the job
    ``refresh`` last set it; until the first time, at the start of the stage that it is made in."""

    def __post_init__(self) -> None:
        if self.at not in ("stage", "epoch", "start", "job"):
            raise UserError(f"previous: at must be 'stage', 'epoch', 'start' or 'job', got {self.at!r}")

    def build(self, context: BranchContext) -> PreviousBranch:
        """The copy.

        Raises:
            UserError: no such branch; or ``at: stage`` in the first stage.
        """
        if self.at == "stage" and not context.previous:
            raise UserError(
                f"branches.{context.name}: there is no stage before this one: use at: epoch or at: start, or a "
                "branch {name: frozen} with the weights of another run"
            )
        source = branch_of(context, self.of, context.previous if self.at == "stage" else None)
        every = max(1, round(context.clock.steps_per_epoch)) if self.at == "epoch" else None
        return PreviousBranch(source, self.of, every, self.at == "job")


class PreviousBranch(StillBranch):
    """See :class:`Config`.

    Args:
        source: what to copy.
        of: its name.
        every: optimiser steps between two copies; None: it does not copy by itself.
        set_by_job: a job takes the copies.
    """

    def __init__(self, source: EncoderBranch, of: str, every: int | None, set_by_job: bool = False) -> None:
        super().__init__(source)
        self.of, self.every, self.set_by_job = of, every, set_by_job
        self.follows = of if every is not None or set_by_job else None

    @torch.no_grad()
    def refresh(self, branches: Mapping[str, Branch]) -> None:
        """Copy the branch anew."""
        self.load_state_dict(branches[self.of].state_dict())

    def update(self, branches: Mapping[str, Branch], step: int, applied: Tensor | None = None) -> dict[str, float]:
        """Copy the branch anew where step ``step`` (from 0) was the last of an epoch, refused or not."""
        if self.every is not None and (step + 1) % self.every == 0:
            self.refresh(branches)
        return {}
