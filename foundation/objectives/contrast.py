"""Contrast: a view finds the teacher's view of the same sample among others (InfoNCE, van den Oord et al. 2018).

With a queue of past teacher views this is momentum contrast (He et al. 2020), without one in-batch contrast with a
momentum teacher (Chen et al. 2021). DCGLR (Fu et al. 2022) adds such a term to self-distillation of point clouds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from foundation.branches.request import Request
from foundation.errors import UserError
from foundation.objectives.base import Objective, ObjectiveContext, Result
from foundation.objectives.queue import check_size, push
from foundation.parallel import collective
from foundation.ranges import Range, Temperature, check
from foundation.schedules import Weight
from foundation.types import Batch, View


@dataclass(frozen=True, kw_only=True)
class Config:
    """InfoNCE between student and teacher.

    The loss is the mean over pairs (student view, teacher view) of the batch mean of
    ``-log(exp(p / t) / (exp(p / t) + sum_n exp(n / t)))``, with p the cosine to the teacher's view of the same sample
    and n those to all teacher views of other samples in the batch and in the queue.
    """

    weight: Weight = 1.0
    """Factor of this loss in the total."""
    student: str = "student"
    """Name of the branch that learns."""
    mask: str | None = "masking"
    """Mask rule of the recipe under which the student sees views that it hides parts of; null: none."""
    head: str | None = None
    """Head whose outputs are compared, usually a projector; None compares the encoder's class tokens."""
    teacher: str = "teacher"
    """Name of the teacher in the recipe."""
    teacher_view: str = "global"
    """View that the teacher sees; the student sees it too, unless ``shared_view`` is false."""
    other_views: tuple[str, ...] = ()
    """Views that only the student sees and that look for the teacher's views as well, such as ``local``."""
    shared_view: bool = True
    """The student sees ``teacher_view``; false: only ``other_views``, where that is of a sensor it does not take."""
    teacher_head: str | None = None
    """Head of the teacher, where it has another than ``head``; null: ``head``."""
    symmetric: bool = False
    """Also let the teacher's view find the student's among those of the batch, and take the mean of both (CLIP)."""
    same_view: bool = False
    """Also pair a view with itself."""
    temperature: Temperature = 0.2
    """Divides the cosines (MoCo v3: 0.2; MoCo: 0.07)."""
    queue: Annotated[int, Range(0, 2**24)] = 0
    """Rows of past teacher views that serve as further negatives, first in, first out (MoCo: 65,536). A sample is never
    its own negative."""
    across_processes: bool = True
    """Take the batches of all processes as negatives. The queue always holds those of all."""

    def __post_init__(self) -> None:
        check(self, "contrast")
        if not self.shared_view and not self.other_views:
            raise UserError("contrast: shared_view is false and other_views is empty: name the student's views")

    def build(self, context: ObjectiveContext) -> Contrast:
        """The objective of a run.

        Raises:
            UserError: the recipe has no such head, or the two heads give vectors of different widths.
        """
        return Contrast(self, context)


class Contrast(Objective):
    """InfoNCE loss and its queue. See :class:`Config`.

    Attributes:
        queue: [Q, D] float32, unit length, the oldest first.
        queue_ids: [Q] int64 sample of each row; -1 where nothing has been put yet.
    """

    queue: Tensor
    queue_ids: Tensor

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        teacher_head = config.teacher_head or config.head
        width = context.outputs(config.teacher, teacher_head)
        if (own := context.outputs(config.student, config.head)) != width:
            raise UserError(f"vectors of {own} numbers (student) and {width} (teacher) cannot be compared")
        check_size(config.queue, context.stores.samples)
        self.register_buffer("queue", torch.zeros(config.queue, width))
        self.register_buffer("queue_ids", torch.full((config.queue,), -1, dtype=torch.int64))
        self.teacher_request = Request(config.teacher, config.teacher_view, "cls", teacher_head)
        views = (*[config.teacher_view] * config.shared_view, *config.other_views)
        self.student_requests = tuple(
            Request(config.student, view, "cls", config.head, mask=context.mask(config.mask, view)) for view in views
        )
        self.requests = (self.teacher_request, *self.student_requests)

    def forward(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        """Loss, ``top1`` (share of pairs whose right view is nearer than every negative) and ``similarity`` (mean
        cosine of the pairs). In training, the teacher's views then enter the queue.

        Raises:
            UserError: the batch has no pair of different views.
        """
        with torch.autocast(outputs[self.teacher_request].device.type, enabled=False):
            return self._loss(outputs, batch)

    def _loss(self, outputs: Mapping[Request, Tensor], batch: Batch) -> Result:
        config = self.config
        view = batch.views[config.teacher_view]
        count = view.count
        targets = F.normalize(outputs[self.teacher_request].detach().float(), dim=-1)  # [V B, D]
        keys, key_ids = (collective.gather_views(part, count) for part in (targets, view.sample_ids))
        others, other_ids = (keys, key_ids) if config.across_processes else (targets, view.sample_ids)
        negatives = torch.cat([others, self.queue])  # [M, D]
        negative_ids = torch.cat([other_ids, self.queue_ids])
        losses, right, cosines, pairs = [], [], [], 0
        for request in self.student_requests:
            student = batch.views[request.view]
            rows = F.normalize(outputs[request].float(), dim=-1)  # [S B, D]
            usable = (negative_ids >= 0) & (student.sample_ids[:, None] != negative_ids)  # [S B, M]
            logits = (rows @ negatives.T / config.temperature).masked_fill(~usable, -torch.inf)
            # Where a batch has no other sample there is nothing to tell apart: such rows cost nothing.
            against = torch.where(usable.any(dim=1), torch.logsumexp(logits, dim=1), -torch.inf)  # [S B]
            own = torch.einsum(
                "sbd,vbd->svb", rows.unflatten(0, (student.count, -1)), targets.unflatten(0, (count, -1))
            )
            for index in range(student.count):
                for other in range(count):
                    if request.view == config.teacher_view and index == other and not config.same_view:
                        continue
                    positive = own[index, other] / config.temperature  # [B]
                    negative = against.unflatten(0, (student.count, -1))[index]
                    losses.append(F.softplus(negative - positive).mean())
                    if config.symmetric:
                        losses.append(self._back(rows, student, targets, view, index, other))
                    best = logits.detach().unflatten(0, (student.count, -1))[index].amax(dim=1)
                    right.append((positive.detach() > best).float().mean())
                    cosines.append(own[index, other].detach().mean())
                    pairs += 1
        if not pairs:
            raise UserError(
                f"contrast needs pairs of different views: ask for two {config.teacher_view!r} views, name "
                "other_views, or set same_view: true"
            )
        if self.training and config.queue:
            # Sample by sample: so the queue is the same however the batch is dealt out to processes and micro-batches.
            self._enter(*(rearrange(part, "(v b) ... -> (b v) ...", v=count) for part in (keys, key_ids)))
        metrics = {"top1": torch.stack(right).mean(), "similarity": torch.stack(cosines).mean()}
        return Result(torch.stack(losses).mean(), metrics)

    def _back(self, rows: Tensor, student: View, targets: Tensor, teacher: View, index: int, other: int) -> Tensor:
        """Loss of the teacher's view number ``other`` that looks for the student's number ``index`` of its sample."""
        own = rows.unflatten(0, (student.count, -1))[index]  # [B, D]
        keys, key_ids = own, student.sample_ids.unflatten(0, (student.count, -1))[index]
        if self.config.across_processes:
            keys, key_ids = collective.gather_rows(keys), collective.gather_rows(key_ids)
        queries = targets.unflatten(0, (teacher.count, -1))[other]  # [B, D]
        ids = teacher.sample_ids.unflatten(0, (teacher.count, -1))[other]
        positive = (queries * own).sum(dim=1) / self.config.temperature
        logits = (queries @ keys.T / self.config.temperature).masked_fill(ids[:, None] == key_ids, -torch.inf)
        against = torch.where((ids[:, None] != key_ids).any(dim=1), torch.logsumexp(logits, dim=1), -torch.inf)
        return F.softplus(against - positive).mean()

    @torch.no_grad()
    def _enter(self, keys: Tensor, ids: Tensor) -> None:
        """Put rows at the end of the queue; a batch that is not finite stays out."""
        finite = torch.isfinite(keys).all()
        push(self.queue, keys, finite)
        push(self.queue_ids, ids, finite)
