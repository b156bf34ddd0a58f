"""BYOL: a predictor tells one view's projection from another's, without negatives (Grill et al. 2020, equation 2).

On class tokens of two segments it is ATST-Clip (Li and Li 2022), on the hidden frames of one segment ATST-Frame
(Li, Shao and Li 2024).
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
from foundation.heads import prototypes as head_module
from foundation.objectives.base import Objective, ObjectiveContext, Result
from foundation.schedules import Weight
from foundation.types import Batch

PREDICTOR = head_module.Config(
    prototypes=None, hidden=4096, bottleneck=256, layers=2, norm="batch", bias=False, activation="relu"
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Mean over pairs (teacher view, student view) of 2 - 2 cosine of prediction and projection."""

    weight: Weight = 1.0
    """Factor of this loss in the total."""
    student: str = "student"
    """Name of the branch that learns."""
    mask: str | None = "masking"
    """Mask rule of the recipe under which the student sees views that it hides parts of; null: none."""
    head: str = "projector"
    """Name of the head in the recipe; one without prototypes."""
    teacher: str = "teacher"
    """Name of the teacher in the recipe."""
    view: str = "global"
    """View that both see."""
    other_views: tuple[str, ...] = ()
    """Views that only the student sees (class tokens only)."""
    token: Literal["cls", "masked"] = "cls"
    """Class tokens, or the hidden tokens: place by place. With pairs of different views all views of a sample must then
    show the same stretch under the same mask (``masking.shared``)."""
    pairs: Literal["other", "same"] = "other"
    """Each view with every other one, or with itself (ATST-Frame calls the second asymmetric)."""
    predictor: head_module.Config | None = PREDICTOR
    """The student's predictor behind the head; its ``bottleneck`` must be the head's. null: none."""

    def __post_init__(self) -> None:
        if self.token not in ("cls", "masked"):
            raise UserError(f"byol: token must be 'cls' or 'masked', got {self.token!r}")
        if self.pairs not in ("other", "same"):
            raise UserError(f"byol: pairs must be 'other' or 'same', got {self.pairs!r}")
        if self.other_views and (self.token == "masked" or self.pairs == "same"):
            raise UserError("byol: other_views go with token: cls and pairs: other")
        if self.predictor is not None and self.predictor.prototypes is not None:
            raise UserError("byol: a predictor has no prototypes: set predictor.prototypes to null")

    def build(self, context: ObjectiveContext) -> Byol:
        """The objective of a run.

        Raises:
            UserError: no such head, or a predictor that does not fit it.
        """
        projected = context.outputs(self.teacher, self.head)
        if self.predictor is not None and self.predictor.outputs != projected:
            raise UserError(
                f"byol: the predictor gives {self.predictor.outputs} numbers and head {self.head!r} {projected}: "
                "give both the same bottleneck"
            )
        return Byol(self, context, projected)


class Byol(Objective):
    """BYOL loss with its predictor. See :class:`Config`.

    Attributes:
        predictor: the student's; identity without one.
    """

    def __init__(self, config: Config, context: ObjectiveContext, projected: int) -> None:
        super().__init__()
        self.config = config
        self.predictor = torch.nn.Identity() if config.predictor is None else config.predictor.build(projected)
        rule = context.mask(config.mask, config.view)
        self.mask_key = (config.view, rule or "")
        chosen_by = rule if config.token == "masked" else None
        self.teacher_request = Request(config.teacher, config.view, config.token, config.head, rule=chosen_by)
        self.student_requests = tuple(
            Request(config.student, view, config.token, config.head, mask=context.mask(config.mask, view))
            for view in (config.view, *config.other_views)
        )
        self.requests = (self.teacher_request, *self.student_requests)

    def forward(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        """Loss, and what tells a collapse: ``std_student`` and ``std_teacher``, mean deviation of the normalised
        predictions and projections over the rows (near 1 / sqrt(width) when they spread, 0 when all are alike).

        Raises:
            UserError: no pair of different views, or views of a sample that are masked differently.
        """
        requests = self.student_requests
        rows = [len(outputs[request]) for request in requests]
        # All views at once: BatchNorm of the predictor compares them together, as the reference does.
        predicted = self.predictor(torch.cat([outputs[request] for request in requests])).split(rows)
        with torch.autocast(predicted[0].device.type, enabled=False):
            teacher = F.normalize(outputs[self.teacher_request].float(), dim=-1)
            student = [F.normalize(part.float(), dim=-1) for part in predicted]
            if not len(teacher):  # no token is masked here
                nothing = teacher.new_zeros(())
                metrics = {"std_student": nothing, "std_teacher": nothing}
                return Result(student[0].sum(), metrics, dict.fromkeys(metrics, 0))
            metrics = {"std_student": deviation(torch.cat(student)), "std_teacher": deviation(teacher)}
            if self.config.pairs == "same":
                loss = 2.0 - 2.0 * (student[0] * teacher).sum(-1).mean()
            else:
                loss = self._other(student, teacher, batch)
            if self.config.token == "masked":
                loss = batch.masks[self.mask_key].weighted(loss)
            return Result(loss, metrics, dict.fromkeys(metrics, len(teacher)))

    def _other(self, student: list[Tensor], teacher: Tensor, batch: Batch) -> Tensor:
        """Mean over pairs of different views; ``student`` by view name and ``teacher`` are normalised, view-major."""
        views = batch.views[self.config.view].count
        if len(teacher) % views:
            raise UserError("byol: the views of a sample are masked differently: set masking.shared to true")
        targets = teacher.unflatten(0, (views, -1))  # [V, B, D]
        total = targets.sum(dim=0)
        parts, pairs = [], 0
        for request, predicted in zip(self.student_requests, student, strict=True):
            count = batch.views[request.view].count
            rows = predicted.unflatten(0, (count, -1))
            own = request.view == self.config.view
            partners = total - targets if own else total  # the cosine is linear in the target: sums will do
            parts.append((rows * partners).sum(-1).mean(dim=1).sum())
            pairs += count * (views - 1 if own else views)
        if not pairs:
            raise UserError(f"byol needs pairs of different views: ask for two {self.config.view!r} views")
        return 2.0 - 2.0 * torch.stack(parts).sum() / pairs


@torch.no_grad()
def deviation(rows: Tensor) -> Tensor:
    """Mean over features of the standard deviation over normalised rows [R, D]."""
    return (rows.var(dim=0, correction=min(1, len(rows) - 1)) + 1e-6).sqrt().mean()
