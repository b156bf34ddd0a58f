"""Semantic cluster distillation: tokens of one view and of another swap their cluster codes (DISCOVR).

The clusters are prototypes that both meet: what a teacher says of the patches of single frames becomes a code for each
tubelet of the clip that the student has seen in part, and the other way round. Tokens are paired by place. Letters: R
rows, N tokens, D width, K prototypes, M tokens that count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from foundation.branches.request import Request
from foundation.errors import UserError
from foundation.linear import Linear
from foundation.objectives.base import Objective, ObjectiveContext, Result
from foundation.objectives.centering import SinkhornKnopp
from foundation.parallel.shards import local
from foundation.ranges import Range, Temperature, check
from foundation.schedules import Weight
from foundation.types import Batch


@dataclass(frozen=True, kw_only=True)
class Config:
    """Swapped prediction of hard cluster codes (SwAV's, Caron et al. 2020) between a student's view and a teacher's."""

    weight: Weight = 1.0
    """Factor of this loss in the total."""
    student: str = "student"
    """Name of the branch that learns."""
    mask: str | None = "masking"
    """Mask rule of the recipe under which the student sees views that it hides parts of; null: none."""
    head: str | None = "decoder"
    """Head of the recipe that the student's tokens pass before they meet the prototypes: a decoder of transformer
    blocks (DISCOVR); null: none."""
    view: str = "global"
    """View whose patch tokens the student gives; usually masked, so that a decoder has to fill in what was hidden."""
    teacher: str = "teacher"
    """Name of the teacher in the recipe."""
    teacher_view: str = "frame"
    """View whose patch tokens the teacher gives: as many frames for each clip, and patches for each frame, as the
    student's view has moments and places."""
    prototypes: Annotated[int, Range(2, 2**24)] = 3000
    """Number of clusters K."""
    temperature: Temperature = 0.1
    """Softmax temperature of the predictions."""
    epsilon: Temperature = 0.05
    """Temperature inside Sinkhorn-Knopp."""
    sinkhorn_iterations: Annotated[int, Range(1, 1000)] = 10
    """Rounds of Sinkhorn-Knopp."""
    over: Literal["masked", "all"] = "masked"
    """Tokens in the loss: the hidden ones, or all."""
    teacher_term: bool = True
    """Let the prototypes also learn from the codes of the student, by the teacher's scores. False: as in the code that
    was published, where that term has a value and no gradient."""

    def __post_init__(self) -> None:
        check(self, "cluster")
        if self.over not in ("masked", "all"):
            raise UserError(f"cluster: over must be 'masked' or 'all', got {self.over!r}")

    def build(self, context: ObjectiveContext) -> Cluster:
        """The objective of a run."""
        return Cluster(self, context)


class Cluster(Objective):
    """See :class:`Config`.

    Attributes:
        prototypes: [K, D], brought back to length 1 at every step.
        project: from the head's width to the encoder's.
    """

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        rule = context.mask(config.mask, config.view)
        self.mask_key = (config.view, rule or "")
        width, decoded = context.width(config.teacher), context.outputs(config.student, config.head)
        self.student_request = Request(config.student, config.view, "patches", config.head, mask=rule)
        self.teacher_request = Request(config.teacher, config.teacher_view, "patches")
        # A masked view is asked for by a token of it too, so that a recipe without masks is refused before it starts.
        masked = Request(config.student, config.view, "masked", config.head, mask=rule)
        self.requests = (self.student_request, self.teacher_request, *((masked,) if config.over == "masked" else ()))
        self.project: nn.Module = nn.Identity()
        if decoded != width or config.head is not None:
            self.project = Linear(decoded, width)
            nn.init.trunc_normal_(self.project.weight, std=0.02)
            nn.init.zeros_(self.project.bias)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(config.prototypes, width), dim=1))
        self.sinkhorn = SinkhornKnopp(config.sinkhorn_iterations)

    def forward(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        """Loss, ``agreement`` (share of tokens whose two codes are equal) and ``prototypes`` (share in use).

        Raises:
            UserError: the tokens of the two views do not correspond.
        """
        student = outputs[self.student_request]  # [R, N, D]
        teacher = self.aligned(outputs[self.teacher_request], student, batch)
        with torch.autocast(student.device.type, enabled=False):
            teacher = standardise(teacher.float())
        student = self.project(student).flatten(0, 1)
        teacher = teacher.flatten(0, 1)
        if self.config.over == "all":
            return self.swap(student, teacher)
        mask = batch.masks[self.mask_key]
        result = self.swap(student.index_select(0, mask.indices), teacher.index_select(0, mask.indices))
        return Result(mask.weighted(result.loss), result.metrics, dict.fromkeys(result.metrics, len(mask.indices)))

    def aligned(self, frames: Tensor, student: Tensor, batch: Batch) -> Tensor:
        """The teacher's tokens in the order of the student's: [V F B, n, D] -> [V B, F n, D], time slowest.

        Raises:
            UserError: F n is not N.
        """
        rows, tokens = student.shape[:2]
        count = len(frames) // max(rows, 1)
        if count * rows != len(frames) or count * frames.shape[1] != tokens:
            raise UserError(
                f"cluster: {tokens} tokens of each {self.config.view!r} row do not correspond to {count} x "
                f"{frames.shape[1]} of {self.config.teacher_view!r}: give as many frames as the clip has tubelets in "
                "time, of the same size and patch size"
            )
        views = batch.views[self.config.view].count
        return rearrange(frames, "(view frame b) place d -> (view b) (frame place) d", view=views, frame=count)

    def swap(self, student: Tensor, teacher: Tensor) -> Result:
        """Codes and loss of paired tokens [M, D] of student and teacher."""
        config = self.config
        with torch.autocast(student.device.type, enabled=False):
            unit = F.normalize(self.prototypes.detach(), dim=1)
            prototypes = self.prototypes + (unit - self.prototypes.detach())  # the gradient is that of the unit ones
            by_student = F.normalize(student.float(), dim=-1) @ prototypes.T  # [M, K]
            by_teacher = F.normalize(teacher.float(), dim=-1) @ (prototypes if config.teacher_term else unit).T
            own = self.sinkhorn(by_student.detach(), config.epsilon).argmax(dim=1)
            wanted = self.sinkhorn(by_teacher.detach(), config.epsilon).argmax(dim=1)
            if not len(by_student):  # behind Sinkhorn-Knopp, which other processes may have tokens for
                nothing = by_student.new_zeros(())
                return Result(by_student.sum() + by_teacher.sum(), {"agreement": nothing, "prototypes": nothing})
            loss = F.cross_entropy(by_student / config.temperature, wanted)
            loss = loss + F.cross_entropy(by_teacher / config.temperature, own)
            used = by_student.new_zeros(config.prototypes).index_fill_(0, wanted, 1.0).sum()
            metrics = {
                "agreement": (own == wanted).float().mean(),
                "prototypes": used / min(config.prototypes, len(wanted)),
            }
            return Result(loss, metrics)

    @torch.no_grad()
    def update(self) -> None:
        """Every prototype has length 1."""
        rows = local(self.prototypes)
        rows.copy_(F.normalize(rows, dim=1))


def standardise(tokens: Tensor) -> Tensor:
    """[R, N, D] with mean 0 and deviation 1 over the tokens of a row, each channel by itself."""
    return (tokens - tokens.mean(1, keepdim=True)) / (tokens.var(1, keepdim=True, correction=0) + 1e-6).sqrt()
