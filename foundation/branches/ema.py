"""The EMA teacher: a moving average of a trained branch, counted in optimiser steps (Tarvainen and Valpola 2017)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import nn

from foundation.branches.base import Branch, BranchContext, EncoderBranch
from foundation.branches.copies import branch_of
from foundation.errors import UserError
from foundation.parallel.shards import local
from foundation.ranges import Range, check
from foundation.schedules import Clock, Schedule


@dataclass(frozen=True, kw_only=True)
class Config:
    """A teacher that follows a trained branch."""

    of: str = "student"
    """Branch that it follows."""
    momentum: Annotated[Schedule, Range(0, 1)] = Schedule(start=0.996, end=1.0)
    """Share of the teacher that stays at each optimiser step; a cosine from 0.996 to 1 in DINO."""
    batch_statistics: bool = False
    """BatchNorm in the teacher's heads compares the rows of the batch (BYOL, ATST), in place of the running statistics
    that the student has gathered: those lag behind at the start, all targets are then nearly alike, and BYOL collapses.
    """

    def __post_init__(self) -> None:
        check(self, "ema")

    def build(self, context: BranchContext) -> EmaBranch:
        """Teacher that starts as a copy of the branch."""
        return EmaBranch(branch_of(context, self.of), self.of, self.momentum, context.clock, self.batch_statistics)


class EmaBranch(EncoderBranch):
    """Copy of a branch: always in evaluation mode, without gradients, moved only by :meth:`update`.

    Args:
        source: branch to copy.
        follows: its name.
        momentum: over the run.
        clock: length of the run.
        batch_statistics: see :class:`Config`.
    """

    exports = True

    def __init__(
        self,
        source: EncoderBranch,
        follows: str,
        momentum: Schedule = Config.momentum,
        clock: Clock | None = None,
        batch_statistics: bool = False,
    ) -> None:
        super().__init__(copy.deepcopy(source.encoder), copy.deepcopy(dict(source.heads.items())), source.configs)
        self.follows, self.momentum, self.batch_statistics = follows, momentum, batch_statistics
        self.clock = clock or Clock(1, 1.0)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> EmaBranch:
        """Stays in evaluation mode: no drop path, and no batch statistics unless asked for."""
        super().train(False)
        self.training = mode
        for module in self.heads.modules() if mode and self.batch_statistics else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train()
        return self

    def update(
        self, branches: Mapping[str, Branch], step: int, applied: torch.Tensor | None = None
    ) -> dict[str, float]:
        """Follow the branch after optimiser step ``step`` (from 0), but not where ``applied`` is 0.

        Returns:
            ``momentum``, for the log.
        """
        assert self.follows is not None
        momentum = self.momentum.at(step, self.clock)
        self.average(branches[self.follows], momentum, applied)
        return {"momentum": momentum}

    @torch.no_grad()
    def average(self, source: nn.Module, momentum: float, applied: torch.Tensor | None = None) -> None:
        """``teacher = momentum * teacher + (1 - momentum) * source`` for parameters; buffers are copied.

        Where ``applied`` [] float32 on the device is 0, nothing changes as long as the source is finite; it is not
        waited for.

        Buffers (BatchNorm statistics, counters) are averages or tables already, so that averaging them again would
        only make them late.
        """
        _pair(self.named_parameters(), source.named_parameters(), momentum, applied)
        _pair(self.named_buffers(), source.named_buffers(), 0.0, applied)


def _pair(
    own: Iterable[tuple[str, torch.Tensor]],
    theirs: Iterable[tuple[str, torch.Tensor]],
    momentum: float,
    applied: torch.Tensor | None,
) -> None:
    teacher, student = dict(own), dict(theirs)
    if teacher.keys() != student.keys():
        different = min(teacher.keys() ^ student.keys())
        raise UserError(f"ema: student and teacher differ: only one of them has {different!r}")
    averaged = [name for name, value in teacher.items() if value.is_floating_point() and momentum != 0.0]
    if averaged:  # of sharded ones each process moves its own part: both lie in the same parts
        own_parts, new_parts = ([local(side[name]) for name in averaged] for side in (teacher, student))
        if applied is None:
            torch._foreach_lerp_(own_parts, new_parts, 1.0 - momentum)
        else:  # one weight for all, on the device: the same bits, in the same time
            torch._foreach_lerp_(own_parts, new_parts, [applied * (1.0 - momentum)] * len(averaged))
    copied = [name for name in teacher if name not in set(averaged)] if len(averaged) < len(teacher) else []
    if copied:
        own_parts, new_parts = ([local(side[name]) for name in copied] for side in (teacher, student))
        if applied is not None:
            pairs = zip(own_parts, new_parts, strict=True)
            new_parts = [torch.where(applied > 0, new, own) for own, new in pairs]
        torch._foreach_copy_(own_parts, new_parts)
