"""Gram anchoring: patches keep the similarities that an earlier teacher saw (DINOv3, Siméoni et al. 2025, section 4).

In a long training class tokens go on improving while patch tokens lose their places: they become alike. The anchor is a
copy of the EMA teacher of an earlier step, which a job sets anew a few times. Letters: R rows, P patches of a row, D
width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from foundation.branches.request import Request
from foundation.errors import UserError
from foundation.objectives.base import MASKING, Objective, ObjectiveContext, Result
from foundation.objectives.grids import resize
from foundation.ranges import check
from foundation.schedules import Weight
from foundation.types import Batch

KINDS = {"level": ("view", "batch"), "negatives": ("keep", "remove_both", "remove_teacher")}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Mean squared difference of the similarities between all patches, of the student's and the teacher's."""

    weight: Weight = 2.0
    """Factor of this loss in the total; 0 at first by ``frozen`` of a schedule, or the loss comes in a later stage."""
    student: str = "student"
    """Name of the branch that learns."""
    teacher: str = "gram"
    """Name of the anchor, a branch such as ``{name: previous, of: teacher, at: job}``, set by the job ``refresh``."""
    view: str = "global"
    """View that the student sees."""
    teacher_view: str | None = None
    """View of the same crops that the anchor sees, larger and undistorted (DINOv3: ``plain``); null: the student's. Its
    map of tokens is resized to the student's grid, bicubically."""
    mask: str | None = MASKING
    """Mask rule of the recipe under which the student sees the view; null: it sees all of it."""
    normalise: bool = True
    """Bring tokens to length 1 first: similarities are cosines."""
    level: Literal["view", "batch"] = "view"
    """Similarities within each view, or among all patches of the rows that one process has in one micro-batch."""
    negatives: Literal["keep", "remove_both", "remove_teacher"] = "keep"
    """Similarities below 0: kept, set to 0 in both, or in the teacher's alone (as the released code does)."""
    antialias: bool = False
    """Smooth the anchor's map before it is made smaller."""

    def __post_init__(self) -> None:
        for name, value in (("level", self.level), ("negatives", self.negatives)):
            if value not in KINDS[name]:
                raise UserError(f"gram: {name} must be one of {', '.join(map(repr, KINDS[name]))}, got {value!r}")
        if self.teacher == self.student:
            raise UserError(
                f"gram: branch {self.teacher!r} cannot be its own anchor: give branches a "
                "gram: {name: previous, of: teacher, at: job} and jobs a {name: refresh, branch: gram, every: ...}"
            )
        check(self, "gram")

    def build(self, context: ObjectiveContext) -> Gram:
        """The objective of a run.

        Raises:
            UserError: there is no such branch, view or mask rule; views of different numbers; grids that cannot be
                resized to each other.
        """
        return Gram(self, context)


class Gram(Objective):
    """See :class:`Config`."""

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        for branch in (config.student, config.teacher):
            context.offer(branch)
        seen = config.teacher_view or config.view
        counts = [context.views[name].count for name in (config.view, seen) if name in context.views]
        if len(set(counts)) > 1:
            raise UserError(
                f"a sample has {counts[0]} views {config.view!r} and {counts[1]} {seen!r}: teacher_view must show the "
                "same crops, as the view 'plain' of views.plain_size does"
            )
        rule = context.mask(config.mask, config.view)
        self.student_request = Request(config.student, config.view, "patches", mask=rule)
        self.teacher_request = Request(config.teacher, seen, "patches")
        self.requests = (self.teacher_request, self.student_request)
        self.resize = resize(context, (config.teacher, seen), (config.student, config.view), config.antialias)

    def forward(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        """Loss: mean over rows and pairs of patches."""
        student, teacher = outputs[self.student_request], outputs[self.teacher_request].detach()
        if self.resize is not None:
            teacher = self.resize(teacher)
        with torch.autocast(student.device.type, enabled=False):
            return Result(self.difference(student.float(), teacher.float()))

    def difference(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean squared difference of the Gram matrices of tokens, both [R, P, D]."""
        own, goal = (self._similarities(tokens) for tokens in (student, teacher))
        if self.config.negatives != "keep":
            goal = goal.relu()
        if self.config.negatives == "remove_both":
            own = own.relu()
        return F.mse_loss(own, goal)

    def _similarities(self, tokens: Tensor) -> Tensor:
        if self.config.normalise:
            tokens = F.normalize(tokens, dim=-1)
        if self.config.level == "batch":
            tokens = tokens.flatten(0, 1)
        return tokens @ tokens.mT
