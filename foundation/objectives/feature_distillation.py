"""Feature distillation: a student's tokens are to be told those of a teacher, at any layer and behind any head.

With the defaults and a masked autoencoder for a teacher it is the generic stage of G2SD (Huang et al. 2023): behind a
small decoder of its own, a student tells what the teacher's decoder makes of hidden tokens in its fourth block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation.branches.request import Request
from foundation.errors import UserError
from foundation.linear import Linear
from foundation.objectives.base import MASKING, Objective, ObjectiveContext, Result
from foundation.objectives.pairs import check_pair, partners
from foundation.ranges import DepthOrNone, Positive, Side, check
from foundation.schedules import Weight
from foundation.types import Batch

NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class Config:
    """Regression of a teacher's tokens."""

    weight: Weight = 1.0
    """Factor of this loss in the total."""
    student: str = "student"
    """Name of the branch that learns."""
    teacher: str = "teacher"
    """Name of the branch that is learnt from."""
    view: str = "global"
    """View that the student sees, and the teacher where ``teacher_view`` is null."""
    teacher_view: str | None = None
    """View of the same sample that the teacher sees, such as one of another sensor: class tokens only. As many for a
    sample as ``view``, number k with number k, or one."""
    mask: str | None = MASKING
    """Mask rule of the recipe under which the student sees the view; null: it sees all of it."""
    teacher_mask: str | None = None
    """Mask rule under which the teacher sees it; null: it sees all of it. G2SD: the student's, so that both decoders
    have as little to go by."""
    token: Literal["masked", "patches", "cls"] = "masked"
    """Tokens in the loss: the patches that the student's rule hides, all patches, or the class token."""
    head: str | None = None
    """Head of the student that its tokens pass first; null: none."""
    tap: str | None = None
    """Layer of the student, such as ``block.5`` (with a head ``HEAD.block.1``); null: the last, normed."""
    teacher_head: str | None = None
    """Head of the teacher that its tokens pass first; null: none."""
    teacher_tap: str | None = None
    """Layer of the teacher, likewise (G2SD: ``decoder.block.3``)."""
    normalise: bool = True
    """Give each of the teacher's tokens mean 0 and deviation 1 (LayerNorm without affine) first."""
    unit_length: bool = False
    """Bring the student's prediction and the teacher's token to length 1, after that (COMODO's L2 baseline)."""
    distance: Literal["l1", "l2", "smooth_l1", "cosine"] = "smooth_l1"
    """Absolute or squared difference, ``smooth_l1`` of ``beta``, or 1 - cosine."""
    beta: Positive = 2.0
    """Difference at which ``smooth_l1`` turns from squared to absolute."""
    layers: DepthOrNone = 2
    """Linear layers from a token of the student to one of the teacher, GELU between them; 0: none, for equal widths."""
    hidden: Side | None = None
    """Width between those layers; null: the teacher's."""

    def __post_init__(self) -> None:
        for name, value, kinds in (
            ("token", self.token, ("masked", "patches", "cls")),
            ("distance", self.distance, ("l1", "l2", "smooth_l1", "cosine")),
        ):
            if value not in kinds:
                there = ", ".join(map(repr, kinds))
                raise UserError(f"feature_distillation: {name} must be one of {there}, got {value!r}")
        if self.teacher_view not in (None, self.view) and self.token != "cls":
            raise UserError(
                f"feature_distillation: teacher_view {self.teacher_view!r} is not view {self.view!r}, so their "
                f"patches do not correspond: set token to cls, not {self.token}"
            )
        check(self, "feature_distillation")

    def build(self, context: ObjectiveContext) -> FeatureDistillation:
        """The objective of a run.

        Raises:
            UserError: there is no such branch, head or mask rule; tokens of different widths and no layers between
                them; a class token behind a head that takes patches.
        """
        return FeatureDistillation(self, context)


class FeatureDistillation(Objective):
    """See :class:`Config`.

    Attributes:
        predict: from a token of the student to one of the teacher.
    """

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        rule = context.mask(config.mask, config.view)
        if config.token == "masked" and rule is None:
            raise UserError(f"token 'masked' needs a mask rule that hides parts of view {config.view!r}: see mask")
        for branch, head in ((config.student, config.head), (config.teacher, config.teacher_head)):
            if config.token == "cls" and head is not None and context.head(branch, head).whole:
                raise UserError(f"there is no class token behind head {head!r} of branch {branch!r}, only patches")
        self.teacher_view = config.teacher_view or config.view
        check_pair(context, config.view, self.teacher_view)
        seen = context.mask(config.teacher_mask, self.teacher_view)
        self.mask_key = (config.view, rule or "")
        self.student_request = Request(config.student, config.view, config.token, config.head, config.tap, mask=rule)
        self.teacher_request = Request(
            config.teacher, self.teacher_view, config.token, config.teacher_head, config.teacher_tap, mask=seen,
            rule=rule if config.token == "masked" else None,
        )  # fmt: skip
        self.requests = (self.teacher_request, self.student_request)
        counts = [context.patches.get((branch, config.view)) for branch in (config.student, config.teacher)]
        last = config.token == "patches" and not config.tap and not config.teacher_tap
        if last and None not in counts and counts[0] != counts[1]:
            raise UserError(
                f"branch {config.student!r} cuts view {config.view!r} into {counts[0]} patches and branch "
                f"{config.teacher!r} into {counts[1]}: give both encoders one grid (patch size, input size)"
            )
        width = context.outputs(config.student, config.head)
        target = context.outputs(config.teacher, config.teacher_head)
        if not config.layers and width != target:
            raise UserError(f"tokens of {width} and {target} numbers cannot be compared: give layers at least 1")
        hidden = config.hidden or target
        layers: list[nn.Module] = []
        if config.layers:
            for inputs, outputs in pairwise([width, *[hidden] * (config.layers - 1), target]):
                layers += [nn.GELU()] if layers else []
                layers.append(Linear(inputs, outputs))
                nn.init.trunc_normal_(layers[-1].weight, std=0.02)  # type: ignore[arg-type]
                nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]
        self.predict = nn.Sequential(*layers)

    def forward(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        """Loss: mean over the tokens that count, those of all processes, and their numbers; 0 without any."""
        predicted = self.predict(outputs[self.student_request]).flatten(0, -2)
        target = outputs[self.teacher_request]
        if self.teacher_view != self.config.view:
            views = batch.views
            target = partners(target, views[self.teacher_view].count, views[self.config.view].count)
        target = target.flatten(0, -2)
        with torch.autocast(predicted.device.type, enabled=False):
            loss = self.difference(predicted.float(), target.float())
        return Result(batch.masks[self.mask_key].weighted(loss) if self.config.token == "masked" else loss)

    def difference(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Mean distance of ``predicted`` from ``target``, both [tokens, numbers]."""
        if not len(target):
            return predicted.sum()
        if self.config.normalise:
            target = F.layer_norm(target, target.shape[-1:], eps=NORM_EPS)
        if self.config.unit_length:
            predicted, target = F.normalize(predicted, dim=-1), F.normalize(target, dim=-1)
        if self.config.distance == "l1":
            return F.l1_loss(predicted, target)
        if self.config.distance == "l2":
            return F.mse_loss(predicted, target)
        if self.config.distance == "cosine":
            return 1.0 - F.cosine_similarity(predicted, target, dim=-1).mean()
        return F.smooth_l1_loss(predicted, target, beta=self.config.beta)
