"""The EMA teacher: a moving average of the student, counted in optimiser steps (Tarvainen and Valpola 2017)."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import nn

from foundation.errors import UserError
from foundation.ranges import Range, check
from foundation.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class Config:
    """A teacher that follows the student."""

    momentum: Annotated[Schedule, Range(0, 1)] = Schedule(start=0.996, end=1.0)
    """Share of the teacher that stays at each optimiser step; a cosine from 0.996 to 1 in DINO."""
    batch_statistics: bool = False
    """BatchNorm in the teacher's heads compares the rows of the batch (BYOL, ATST), in place of the running statistics
    that the student has gathered: those lag behind at the start, all targets are then nearly alike, and BYOL collapses.
    """

    def __post_init__(self) -> None:
        check(self, "ema")

    def build(self, student: nn.Module) -> EmaTeacher:
        """Teacher that starts as a copy of the student branch."""
        return EmaTeacher(student, self.momentum, self.batch_statistics)


class EmaTeacher(nn.Module):
    """Copy of a branch: always in evaluation mode, without gradients, moved only by :meth:`update`.

    Args:
        student: branch to copy.
        momentum: over the run.
        batch_statistics: see :class:`Config`.
    """

    def __init__(
        self, student: nn.Module, momentum: Schedule = Config.momentum, batch_statistics: bool = False
    ) -> None:
        super().__init__()
        self.momentum, self.batch_statistics = momentum, batch_statistics
        self.branch = copy.deepcopy(student).requires_grad_(False)
        self.train(False)

    @property
    def encoder(self) -> nn.Module:
        """The averaged encoder: the model worth keeping."""
        encoder: nn.Module = self.branch.encoder  # type: ignore[assignment]
        return encoder

    def train(self, mode: bool = True) -> EmaTeacher:
        """Stays in evaluation mode: no drop path, and no batch statistics unless asked for."""
        self.training = mode
        self.branch.eval()
        for module in getattr(self.branch, "heads", self.branch).modules() if mode and self.batch_statistics else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train()
        return self

    @torch.no_grad()
    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """What the branch returns, without gradient."""
        return self.branch(*arguments, **keywords)

    def update(self, learner: Any, step: int) -> dict[str, float]:
        """Follow ``learner.student`` after optimiser step ``step`` (from 0).

        Returns:
            ``momentum``, for the log.
        """
        momentum = self.momentum.at(step, learner.clock)
        self.average(learner.student, momentum)
        return {"momentum": momentum}

    @torch.no_grad()
    def average(self, student: nn.Module, momentum: float) -> None:
        """``teacher = momentum * teacher + (1 - momentum) * student`` for parameters; buffers are copied.

        Buffers (BatchNorm statistics, counters) are averages or tables already, so that averaging them again would
        only make them late.
        """
        _pair(self.branch.named_parameters(), student.named_parameters(), momentum)
        _pair(self.branch.named_buffers(), student.named_buffers(), 0.0)


def _pair(own: Iterable[tuple[str, torch.Tensor]], theirs: Iterable[tuple[str, torch.Tensor]], momentum: float) -> None:
    teacher, student = dict(own), dict(theirs)
    if teacher.keys() != student.keys():
        different = min(teacher.keys() ^ student.keys())
        raise UserError(f"ema: student and teacher differ: only one of them has {different!r}")
    averaged = [name for name, value in teacher.items() if value.is_floating_point() and momentum != 0.0]
    if averaged:
        torch._foreach_lerp_([teacher[n] for n in averaged], [student[n] for n in averaged], 1.0 - momentum)
    copied = [name for name in teacher if name not in set(averaged)] if len(averaged) < len(teacher) else []
    if copied:
        torch._foreach_copy_([teacher[n] for n in copied], [student[n] for n in copied])
