"""Distillation of similarities: a student is to be as like each of many samples as its teacher is.

The pairing of SEED (Fang et al. 2021) and, across sensors, of COMODO (Chen et al. 2025): a queue of the teacher's
embeddings is what both are compared with, so that the student need not have the teacher's features, only its order of
what is like what. A teacher of video and a student of an inertial sensor can look at the same moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from foundation.branches.request import Request
from foundation.errors import UserError
from foundation.objectives.base import MASKING, Objective, ObjectiveContext, Result
from foundation.objectives.pairs import check_pair, partners
from foundation.objectives.queue import check_size, push
from foundation.objectives.whitening import Whitening
from foundation.parallel import collective
from foundation.ranges import Range, Temperature, check
from foundation.schedules import Duration, Weight
from foundation.types import Batch


@dataclass(frozen=True, kw_only=True)
class Config:
    """Cross-entropy between two distributions over a queue.

    With keys K (the queue and the teacher's embeddings of this batch), all of length 1, the loss is the batch mean of
    ``-sum_k p_k log q_k``, ``p = softmax(K z_t / teacher_temperature)``, ``q = softmax(K z_s / student_temperature)``.
    The queue is empty at first and fills batch by batch; rows that nothing has been put into do not count. (COMODO
    begins with a random part of the data instead, and withholds it for an epoch.)
    """

    weight: Weight = 1.0
    """Factor of this loss in the total."""
    student: str = "student"
    """Name of the branch that learns."""
    teacher: str = "teacher"
    """Name of the branch that is learnt from."""
    view: str = "global"
    """View that the student sees."""
    teacher_view: str | None = None
    """View of the same sample that the teacher sees, which may be of another sensor; null: ``view``. As many for a
    sample as ``view``, number k with number k, or one."""
    mask: str | None = MASKING
    """Mask rule of the recipe under which the student sees its view; null: it sees all of it."""
    head: str | None = None
    """Head of the student whose outputs are compared, usually a projector; null: the encoder's class tokens."""
    teacher_head: str | None = None
    """Head of the teacher (COMODO: a projector that is drawn at random and never trained); null: none."""
    normalise: Literal["none", "whitened"] = "none"
    """What is done to the teacher's embeddings first: ``whitened`` gives them mean 0, deviation 1 and no correlation,
    by statistics of the first steps over all processes, for a teacher that stands still. Where its embeddings are all
    alike (cosines near 1) it finds everything equally alike otherwise, and teaches nothing."""
    statistics: Annotated[Duration, Range(0, 1e9, above=True)] = Duration(500)
    """Length of the start of the stage whose embeddings give those statistics; rows that entered the queue before
    keep what they were given."""
    queue: Annotated[int, Range(0, 2**24)] = 16_384
    """Past embeddings of the teacher that are kept, first in, first out; at most the samples of the data."""
    student_temperature: Temperature = 0.05
    """Divides the student's cosines."""
    teacher_temperature: Temperature = 0.1
    """Divides the teacher's (the softer of the two in COMODO; SEED: 0.01 and 0.2 for the student)."""

    def __post_init__(self) -> None:
        if self.normalise not in ("none", "whitened"):
            raise UserError(f"similarity_distillation: normalise must be 'none' or 'whitened', got {self.normalise!r}")
        check(self, "similarity_distillation")

    def build(self, context: ObjectiveContext) -> SimilarityDistillation:
        """The objective of a run.

        Raises:
            UserError: there is no such branch, head or mask rule; embeddings of different widths; a queue longer than
                the data; views whose numbers do not go together.
        """
        return SimilarityDistillation(self, context)


class SimilarityDistillation(Objective):
    """See :class:`Config`.

    Attributes:
        queue: [Q, D] float32, unit length, the oldest first.
        filled: [Q] bool, False where nothing has been put yet.
        whiten: with ``normalise: whitened``.
    """

    queue: Tensor
    filled: Tensor

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        self.teacher_view = config.teacher_view or config.view
        width = context.outputs(config.teacher, config.teacher_head)
        own = context.outputs(config.student, config.head)
        if own != width:
            raise UserError(
                f"embeddings of {own} numbers (student) and {width} (teacher) cannot be compared: give both a head of "
                "one bottleneck"
            )
        check_pair(context, config.view, self.teacher_view)
        check_size(config.queue, context.stores.samples)
        self.register_buffer("queue", torch.zeros(config.queue, width))
        self.register_buffer("filled", torch.zeros(config.queue, dtype=torch.bool))
        self.whiten: Whitening | None = None
        if config.normalise == "whitened":
            self.whiten = Whitening(width, config.statistics.steps(context.clock))
        mask = context.mask(config.mask, config.view)
        self.student_request = Request(config.student, config.view, "cls", config.head, mask=mask)
        self.teacher_request = Request(config.teacher, self.teacher_view, "cls", config.teacher_head)
        self.requests = (self.teacher_request, self.student_request)

    def forward(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        """Loss, ``entropy`` of the teacher's distributions (nats), ``kl`` to them, ``similarity`` (mean cosine of
        student and teacher) and ``queue`` (share of it that is filled). In training, the teacher's embeddings then
        enter the queue; a batch that is not finite stays out."""
        with torch.autocast(outputs[self.teacher_request].device.type, enabled=False):
            return self._loss(outputs, batch, step)

    def _loss(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        config = self.config
        count, wanted = batch.views[self.teacher_view].count, batch.views[config.view].count
        teacher = outputs[self.teacher_request].detach().float()  # [V B, D]
        teacher = F.normalize(teacher if self.whiten is None else self.whiten(teacher, step), dim=-1)
        student = F.normalize(outputs[self.student_request].float(), dim=-1)  # [S B, D]
        own = collective.gather_views(teacher, count)
        keys = torch.cat([self.queue, own])  # [Q + N, D]
        there = torch.cat([self.filled, self.filled.new_ones(len(own))])
        scores = (teacher @ keys.T / config.teacher_temperature).masked_fill(~there, -torch.inf)
        target = partners(F.softmax(scores, dim=1), count, wanted)  # [S B, Q + N]
        logits = (student @ keys.T / config.student_temperature).masked_fill(~there, -torch.inf)
        likely = F.log_softmax(logits, dim=1).masked_fill(~there, 0.0)  # 0 times the logarithm of 0 is 0
        loss = -(target * likely).sum(dim=1).mean()
        metrics: dict[str, Tensor] = {}
        if self.watched:
            entropy = torch.special.entr(target).sum(dim=1).mean()
            cosine = (student.detach() * partners(teacher, count, wanted)).sum(dim=1).mean()
            metrics = {"entropy": entropy, "kl": loss.detach() - entropy, "similarity": cosine}
            if config.queue:
                metrics["queue"] = self.filled.float().mean()
        if self.training:
            # Sample by sample: so the queue is the same however the batch is dealt out to processes and micro-batches.
            rows = rearrange(own, "(v b) d -> (b v) d", v=count)
            finite = torch.isfinite(rows).all()
            push(self.queue, rows, finite)
            push(self.filled, torch.ones_like(rows[:, 0], dtype=torch.bool), finite)
        return Result(loss, metrics)
