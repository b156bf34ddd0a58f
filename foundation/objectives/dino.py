"""DINO: the class token of one view predicts the teacher's assignment of another (Caron et al. 2021, equation 3)."""

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
from foundation.ranges import NonNegative, Range, Share, Temperature
from foundation.schedules import Duration, Schedule, Weight
from foundation.types import Batch

TEACHER_TEMPERATURE = Schedule(start=0.07, shape="constant", warmup=Duration(30, "epochs"), warmup_from=0.04)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Cross-view self-distillation of the class token.

    The loss is the mean over pairs (teacher view, student view) of the batch mean of the cross-entropy. This is the
    reduction of DINO and iBOT, and, with G = 2 global and L local views, also DINOv2's: its two terms are divided by
    2 + 2 L, the number of pairs.
    """

    weight: Weight = 1.0
    """Factor of this loss in the total."""
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
    """View that the teacher sees; the student sees it too."""
    other_views: tuple[str, ...] = ("local",)
    """Views that only the student sees; empty for a recipe without local views."""
    same_view: bool = False
    """Also pair a view with itself (DINOv3's option)."""
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
    global_weight: NonNegative = 1.0
    """Factor of the pairs of two global views."""
    local_weight: NonNegative = 1.0
    """Factor of the pairs with a view that only the student sees."""

    def __post_init__(self) -> None:
        targets.check("dino", self)

    def build(self, context: ObjectiveContext) -> Objective:
        """The objective of a run."""
        if self.heads:
            return Averaged([replace(self, head=name, heads=()).build(context) for name in self.heads])
        return Dino(self, context)


class Dino(Objective):
    """DINO loss with its target transform. See :class:`Config`."""

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config, self.clock = config, context.clock
        prototypes = context.prototypes(config.teacher, config.head)
        context.prototypes(config.student, config.head)
        self.plateau = math.log(prototypes)
        self.teacher_request = Request(config.teacher, config.teacher_view, "cls", config.head)
        self.target = targets.build(config, prototypes, context, self.teacher_request)
        self.student_requests = tuple(
            Request(config.student, view, "cls", config.head, mask=context.mask(config.mask, view))
            for view in (config.teacher_view, *config.other_views)
        )
        self.requests = (self.teacher_request, *self.student_requests)

    def targets(self, scores: Tensor, temperature: float, step: int | None = None) -> Tensor:
        """Teacher assignments [R, K] in float32 for scores [R, K]."""
        assignments: Tensor = self.target(scores, temperature, step)
        return assignments

    def forward(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        """Loss and ``loss_global``, ``loss_local`` (means over their pairs), ``entropy``, ``kl``, ``prototypes``.

        Raises:
            UserError: when the batch has no pair of different views.
        """
        with torch.autocast(outputs[self.teacher_request].device.type, enabled=False):
            return self._loss(outputs, batch, step)

    def _loss(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        config = self.config
        views = batch.views[config.teacher_view].count
        temperature = config.teacher_temperature.at(step, self.clock)
        assignments = self.targets(outputs[self.teacher_request], temperature, step).unflatten(0, (views, -1))
        total = assignments.sum(dim=0, keepdim=True)  # [1, B, K]
        partners = total if config.same_view else _others(assignments, total)
        per_view = views if config.same_view else views - 1
        pairs, weighted, plain = 0, [], []
        metrics: dict[str, Tensor] = {}
        for request in self.student_requests:
            is_global = request.view == config.teacher_view
            count = batch.views[request.view].count
            here = count * (per_view if is_global else views)
            if here == 0:
                continue
            scores = outputs[request].unflatten(0, (count, -1))
            losses = soft_cross_entropy(scores, partners if is_global else total, config.student_temperature)
            part = losses.sum() / losses.shape[1]  # the sum over pairs of batch means
            name = "loss_global" if is_global else f"loss_{request.view}"
            metrics[name] = part.detach() / here
            weighted.append((config.global_weight if is_global else config.local_weight) * part)
            plain.append(part.detach())
            pairs += here
        if not pairs:
            raise UserError(
                f"dino needs pairs of different views: ask for two {config.teacher_view!r} views or for local views"
            )
        metrics |= targets.figures(self, assignments.flatten(0, 1), torch.stack(plain).sum() / pairs)
        return Result(torch.stack(weighted).sum() / pairs, metrics)


def _others(assignments: Tensor, total: Tensor) -> Tensor:
    """[V, B, K] for each view the sum over all other views."""
    return assignments.flip(0) if len(assignments) == 2 else (total - assignments).clamp_(min=0.0)
