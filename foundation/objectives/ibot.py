"""iBOT: a hidden patch predicts the teacher's assignment of the same patch, seen (Zhou et al. 2022, equation 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from foundation.branches.request import Request
from foundation.chunks import Rows
from foundation.errors import UserError
from foundation.objectives import targets
from foundation.objectives.averaged import Averaged
from foundation.objectives.base import Objective, ObjectiveContext, Result
from foundation.objectives.cross_entropy import soft_cross_entropy
from foundation.objectives.dino import TEACHER_TEMPERATURE
from foundation.ranges import NonNegative, Range, Share, Temperature
from foundation.schedules import Schedule, Weight
from foundation.types import Batch


@dataclass(frozen=True, kw_only=True)
class Config:
    """Masked-patch self-distillation.

    Per row of the view the mean over its masked patches, then the mean over rows. Dividing by all rows is DINOv2's
    reduction and iBOT's as well (its mean over images, averaged over the views).
    """

    weight: Weight = 1.0
    """Factor of this loss in the total."""
    student: str = "student"
    """Name of the branch that learns."""
    mask: str | None = "masking"
    """Mask rule of the recipe under which the student sees views that it hides parts of; null: none."""
    head: str = "cls"
    """Name of the head in the recipe; DINO's name shares its head."""
    heads: tuple[str, ...] = ()
    """In place of ``head``: several, and the loss is the mean over them (POA)."""
    teacher: str = "teacher"
    """Name of the teacher in the recipe."""
    view: str = "global"
    """The masked view."""
    student_temperature: Temperature = 0.1
    """Softmax temperature of the student."""
    teacher_temperature: Annotated[Schedule, Range(1e-6, 1e6)] = TEACHER_TEMPERATURE
    """Softmax temperature of the teacher over the run."""
    target: Literal["centering", "sinkhorn"] = "centering"
    """How the teacher's scores become targets: a running centre, or Sinkhorn-Knopp over the masked patches."""
    centre_momentum: Share = 0.9
    """Momentum of the running centre."""
    over: Literal["masked", "all"] = "masked"
    """Patches in the loss: the hidden ones, or all of them (ASiT; TIPSv2 and V-JEPA 2.1 found that asking what was seen
    makes patches better). The heads of student and teacher then run on all."""
    visible_weight: NonNegative = 1.0
    """With ``over: all``: factor of the patches that were seen, beside the hidden ones."""
    centre_over: Literal["masked", "all"] = "masked"
    """Patches that the centre averages: the masked ones (DINOv2), or all (iBOT; the head then runs on all of them)."""
    sinkhorn_iterations: Annotated[int, Range(1, 1000)] = 3
    """Rounds of Sinkhorn-Knopp."""
    divide_by: Literal["rows", "masked_rows"] = "rows"
    """Rows in the mean: all (DINOv2, iBOT), or those with a masked patch (full weight whatever the share of them)."""

    def __post_init__(self) -> None:
        targets.check("ibot", self)
        if self.centre_over not in ("masked", "all"):
            raise UserError(f"ibot: centre_over must be 'masked' or 'all', got {self.centre_over!r}")
        if self.centre_over == "all" and self.target == "sinkhorn":
            raise UserError("ibot: centre_over is for target 'centering'; sinkhorn has no centre")
        if self.over not in ("masked", "all"):
            raise UserError(f"ibot: over must be 'masked' or 'all', got {self.over!r}")
        if self.over == "all" and (self.centre_over == "all" or self.divide_by != "rows"):
            raise UserError("ibot: over 'all' centres over all patches and divides by all rows: leave those keys out")
        if self.over != "all" and self.visible_weight != 1.0:
            raise UserError("ibot: visible_weight needs over: all")
        if self.divide_by not in ("rows", "masked_rows"):
            raise UserError(f"ibot: divide_by must be 'rows' or 'masked_rows', got {self.divide_by!r}")

    def build(self, context: ObjectiveContext) -> Objective:
        """The objective of a run."""
        if self.heads:
            return Averaged([replace(self, head=name, heads=()).build(context) for name in self.heads])
        return Ibot(self, context)


class Ibot(Objective):
    """iBOT loss with its target transform. See :class:`Config`."""

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config, self.clock = config, context.clock
        prototypes = context.prototypes(config.teacher, config.head)
        context.prototypes(config.student, config.head)
        self.plateau = math.log(prototypes)
        every: Literal["patches", "masked"] = "patches" if config.over == "all" else "masked"
        token: Literal["patches", "masked"] = "patches" if config.centre_over == "all" else every
        rule = context.mask(config.mask, config.view)
        self.mask_key = (config.view, rule or "")
        self.student_request = Request(config.student, config.view, every, config.head, mask=rule)
        chosen_by = rule if token == "masked" else None
        self.teacher_request = Request(config.teacher, config.view, token, config.head, rule=chosen_by)
        self.target = targets.build(config, prototypes, context, self.teacher_request, rule)
        self.requests = (self.student_request, self.teacher_request)

    def targets(
        self, scores: Tensor, temperature: float, step: int | None = None, over: Tensor | None = None
    ) -> Tensor | Rows:
        """Teacher assignments [M, K] in float32 for scores [M, K]; ``over`` [..., K] is what the centre averages."""
        assignments: Tensor | Rows = self.target(scores, temperature, step, over, whole=False)
        return assignments

    def forward(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        """Loss and ``entropy``, ``kl``, ``prototypes``, and ``masked``, the share of hidden patches.

        A batch without any masked patch has loss 0.
        """
        with torch.autocast(outputs[self.student_request].device.type, enabled=False):
            return self._loss(outputs, batch, step)

    def _loss(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        config, mask = self.config, batch.masks[self.mask_key]
        temperature = config.teacher_temperature.at(step, self.clock)
        teacher = outputs[self.teacher_request]
        if config.over == "all":
            return self._all(outputs[self.student_request].flatten(0, 1), teacher.flatten(0, 1), batch, step)
        over = None
        if config.centre_over == "all":
            over, teacher = teacher, teacher.flatten(0, 1).index_select(0, mask.indices)
        assignments = self.targets(teacher, temperature, step, over)
        losses = soft_cross_entropy(outputs[self.student_request], assignments, config.student_temperature)
        total = (losses * mask.weights).sum()
        loss = mask.over_rows(total) if config.divide_by == "masked_rows" else total / mask.masked.shape[0]
        mean = losses.detach().sum() / max(1, len(losses))
        figures = targets.figures(self, assignments, mean)
        metrics = figures | {"masked": mask.masked.float().mean()}
        return Result(loss, metrics, dict.fromkeys(figures, len(losses)))

    def _all(self, student: Tensor, teacher: Tensor, batch: Batch, step: int) -> Result:
        """Mean over all patches [R x N, K] of all rows, the seen ones times their weight."""
        temperature = self.config.teacher_temperature.at(step, self.clock)
        assignments = self.targets(teacher, temperature, step)
        losses = soft_cross_entropy(student, assignments, self.config.student_temperature)
        hidden = batch.masks[self.mask_key].masked.flatten()
        seen, mean = self.config.visible_weight, losses.mean()
        loss = mean if seen == 1.0 else torch.where(hidden, losses, seen * losses).mean()
        return Result(loss, targets.figures(self, assignments, mean) | {"masked": hidden.float().mean()})
