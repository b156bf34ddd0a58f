"""Set a branch that stands still to what it is a copy of, every so often: the anchor of Gram anchoring (DINOv3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from foundation.errors import UserError
from foundation.jobs.base import Job, JobContext
from foundation.plugins import near
from foundation.ranges import Count, Range, check
from foundation.schedules import Duration


@dataclass(frozen=True, kw_only=True)
class Config:
    """Copies the weights of a branch to one that was made as ``{name: previous, of: ..., at: job}``."""

    every: Annotated[Duration, Range(0, 1e9, above=True)]
    """Distance between two copies (DINOv3: 10,000 steps); they are taken at its multiples."""
    branch: str = "gram"
    """Branch that is set; what it is a copy of is said by its ``of``."""
    start: Annotated[Duration, Range(0, 1e9)] = Duration(0)
    """No copy is taken before this step of the stage."""
    times: Count | None = None
    """Most copies (DINOv3: 3); None: no limit."""

    def __post_init__(self) -> None:
        check(self, "refresh")

    def build(self, context: JobContext) -> RefreshJob:
        """The job.

        Raises:
            UserError: there is no such branch, or it is not one that a job sets.
        """
        branches = context.learner.named_branches
        able = [name for name, branch in branches.items() if branch.set_by_job]
        if self.branch not in able:
            wrong = "is not one that a job sets" if self.branch in branches else "is not there"
            there = ", ".join(able) or "none; make one by {name: previous, of: teacher, at: job}"
            raise UserError(f"the branch {self.branch!r} {wrong}{near(self.branch, able)}; those there are: {there}")
        return RefreshJob(self, self.start.steps(context.clock))


class RefreshJob(Job):
    """See :class:`Config`.

    Args:
        config: of the job.
        start: first step of the stage at which it may copy.

    Attributes:
        done: [] int64, copies that were taken.
    """

    doing = "refreshing"
    done: Tensor

    def __init__(self, config: Config, start: int) -> None:
        super().__init__()
        self.config, self.start, self.sets = config, start, (config.branch,)
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))

    def run(self, context: JobContext) -> Mapping[str, float]:
        """Copy, where it is time; every process for itself, as all have the same weights.

        Returns:
            ``refresh/BRANCH``: copies that were taken so far.
        """
        done, limit = int(self.done), self.config.times
        if context.step >= self.start and (limit is None or done < limit):
            branches = context.learner.named_branches
            branches[self.config.branch].refresh(branches)
            self.done += 1
            done += 1
        return {f"refresh/{self.config.branch}": float(done)}
