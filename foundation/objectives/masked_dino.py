"""Masked copies: the class token of a hidden-in-part view predicts the teacher's assignment of the same view, whole.

The masks stand in the place of local crops (DISCOVR, in both of its branches). Where DINO pairs different views of a
sample, here each view is paired with its own copies only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from foundation.branches.request import Request
from foundation.errors import UserError
from foundation.objectives import targets
from foundation.objectives.averaged import Averaged
from foundation.objectives.base import Objective, ObjectiveContext, Result
from foundation.objectives.cross_entropy import soft_cross_entropy
from foundation.objectives.dino import TEACHER_TEMPERATURE
from foundation.ranges import Range, Share, Temperature
from foundation.schedules import Schedule, Weight
from foundation.types import Batch


@dataclass(frozen=True, kw_only=True)
class Config:
    """Self-distillation between a view and masked copies of it: mean over copies and rows of the cross-entropy."""

    weight: Weight = 1.0
    """Factor of this loss in the total. (DISCOVR's code multiplies that of frames by 256 / frames in the batch.)"""
    student: str = "student"
    """Name of the branch that learns."""
    mask: str | None = "masking"
    """Mask rule of the recipe under which the student sees views that it hides parts of; null: none."""
    head: str = "cls"
    """Name of the head in the recipe."""
    heads: tuple[str, ...] = ()
    """In place of ``head``: several, and the loss is the mean over them (POA)."""
    teacher: str = "teacher"
    """Name of the teacher in the recipe."""
    teacher_view: str = "global"
    """View that the teacher sees whole."""
    student_view: str = "masked"
    """Its copies, which the student sees; a masking of the recipe hides parts of them."""
    student_temperature: Temperature = 0.1
    """Softmax temperature of the student."""
    teacher_temperature: Annotated[Schedule, Range(1e-6, 1e6)] = TEACHER_TEMPERATURE
    """Softmax temperature of the teacher over the run."""
    target: Literal["centering", "sinkhorn"] = "centering"
    """How the teacher's scores become targets: a running centre, or Sinkhorn-Knopp over the global batch."""
    centre_momentum: Share = 0.9
    """Momentum of the running centre."""
    sinkhorn_iterations: Annotated[int, Range(1, 1000)] = 3
    """Rounds of Sinkhorn-Knopp."""

    def __post_init__(self) -> None:
        targets.check("masked_dino", self)

    def build(self, context: ObjectiveContext) -> Objective:
        """The objective of a run."""
        if self.heads:
            return Averaged([replace(self, head=name, heads=()).build(context) for name in self.heads])
        return MaskedDino(self, context)


class MaskedDino(Objective):
    """See :class:`Config`."""

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config, self.clock = config, context.clock
        prototypes = context.prototypes(config.teacher, config.head)
        self.plateau = math.log(prototypes)
        self.teacher_request = Request(config.teacher, config.teacher_view, "cls", config.head)
        self.target = targets.build(config, prototypes, context, self.teacher_request)
        self.student_request = Request(
            config.student, config.student_view, "cls", config.head, mask=context.mask(config.mask, config.student_view)
        )
        self.requests = (self.teacher_request, self.student_request)

    def forward(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        """Loss and ``entropy``, ``kl``, ``prototypes``.

        Raises:
            UserError: the student's view is no whole number of copies of the teacher's.
        """
        scores, seen = outputs[self.student_request], outputs[self.teacher_request]
        if len(scores) % max(len(seen), 1):
            raise UserError(
                f"masked_dino: {len(scores)} rows of {self.config.student_view!r} are no copies of {len(seen)} rows of "
                f"{self.config.teacher_view!r}"
            )
        with torch.autocast(scores.device.type, enabled=False):
            temperature = self.config.teacher_temperature.at(step, self.clock)
            assignments: Tensor = self.target(seen, temperature, step)  # [R, K]
            copies = scores.unflatten(0, (-1, len(seen)))  # copy-major, as the views make them
            loss = soft_cross_entropy(copies, assignments[None], self.config.student_temperature).mean()
            return Result(loss, targets.figures(self, assignments, loss))
