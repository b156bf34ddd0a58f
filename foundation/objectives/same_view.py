"""Same view: what one branch says of a view is what another one is to say of that view (POA, Zhang et al. 2024,
section 3.3: the intact student teaches the elastic one; Random Teachers, Sarnthein et al. 2023, equation 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foundation.branches.request import Request
from foundation.errors import UserError
from foundation.objectives import targets
from foundation.objectives.averaged import Averaged
from foundation.objectives.base import Objective, ObjectiveContext, Result
from foundation.objectives.cross_entropy import soft_cross_entropy
from foundation.ranges import Temperature, check
from foundation.schedules import Weight
from foundation.types import Batch


@dataclass(frozen=True, kw_only=True)
class Config:
    """Cross-entropy of a student's scores of the class token with the softmax of a teacher's of the same view and row.

    The loss is the sum over ``views`` of the mean over their rows. No gradient reaches the teacher, and nothing
    centres or balances its scores.
    """

    weight: Weight = 1.0
    """Factor of this loss in the total."""
    student: str = "student"
    """Name of the branch that learns."""
    teacher: str = "teacher"
    """Name of the branch that it learns from; it may be a trained one."""
    mask: str | None = "masking"
    """Mask rule of the recipe under which both see views that it hides parts of; null: none."""
    head: str = "cls"
    """Name of the head in the recipe."""
    heads: tuple[str, ...] = ()
    """In place of ``head``: several, and the loss is the mean over them (POA)."""
    views: tuple[str, ...] = ("global", "local")
    """Views that both see."""
    student_temperature: Temperature = 0.1
    """Softmax temperature of the student (POA: 0.1; Random Teachers: 1)."""
    teacher_temperature: Temperature = 0.1
    """Softmax temperature of the teacher (POA: 0.1; Random Teachers: 1)."""

    def __post_init__(self) -> None:
        check(self, "same_view")
        if not self.views:
            raise UserError("same_view: views is empty: name at least one view of the recipe, such as global")
        if self.student == self.teacher:
            raise UserError(f"same_view: student and teacher are both {self.student!r}: name two branches")

    def build(self, context: ObjectiveContext) -> Objective:
        """The objective of a run."""
        if self.heads:
            return Averaged([replace(self, head=name, heads=()).build(context) for name in self.heads])
        return SameView(self, context)


class SameView(Objective):
    """See :class:`Config`. It has no plateau: a teacher at a high temperature is nearly uniform, and so is a student
    that has learnt all that it can of it."""

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        outputs = [context.prototypes(name, config.head) for name in (config.teacher, config.student)]
        if outputs[0] != outputs[1]:
            raise UserError(
                f"same_view: head {config.head!r} of branch {config.teacher!r} has {outputs[0]} prototypes, and that "
                f"of {config.student!r} {outputs[1]}"
            )
        masks = {view: context.mask(config.mask, view) for view in config.views}
        self.pairs = tuple(
            (
                Request(config.teacher, view, "cls", config.head, mask=masks[view]),
                Request(config.student, view, "cls", config.head, mask=masks[view]),
            )
            for view in config.views
        )
        self.requests = tuple(request for pair in self.pairs for request in pair)

    def forward(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        """Loss and, where there are several, ``loss_VIEW`` of each; ``entropy``, ``kl``, ``prototypes``."""
        with torch.autocast(outputs[self.pairs[0][0]].device.type, enabled=False):
            return self._loss(outputs)

    def _loss(self, outputs: Mapping[Request, Tensor]) -> Result:
        config = self.config
        assignments, losses = [], {}
        for teacher, student in self.pairs:
            target = torch.softmax(outputs[teacher].detach().float() / config.teacher_temperature, dim=-1)
            losses[student.view] = soft_cross_entropy(outputs[student], target, config.student_temperature)
            assignments.append(target)
        means = {view: rows.mean() for view, rows in losses.items()}
        metrics = {f"loss_{view}": mean.detach() for view, mean in means.items()} if len(means) > 1 else {}
        if self.watched:
            metrics |= targets.figures(self, torch.cat(assignments), torch.cat([*losses.values()]).mean())
        return Result(torch.stack([*means.values()]).sum(), metrics)
