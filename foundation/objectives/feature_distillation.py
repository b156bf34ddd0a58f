"""Feature distillation: a student's tokens are to be told those of a teacher, at any layer and behind any head.

With the defaults and a masked autoencoder for a teacher it is the generic stage of G2SD (Huang et al. 2023): behind a
small decoder of its own, a student tells what the teacher's decoder makes of hidden tokens in its fourth block. Several
frozen experts are several of these objectives, each with its own weight and layers (GPFM, Ma et al. 2024); an expert
with another grid has its map of tokens resized to the student's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation.branches.base import chosen
from foundation.branches.request import Request, Token
from foundation.errors import UserError
from foundation.linear import Linear
from foundation.objectives.base import MASKING, Objective, ObjectiveContext, Result
from foundation.objectives.grids import Resize, resize, shown
from foundation.objectives.pairs import check_pair, partners
from foundation.objectives.whitening import Whitening
from foundation.ranges import DepthOrNone, Positive, Range, Share, Side, check
from foundation.schedules import Duration, Weight
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
    normalise: Literal["none", "layer", "whitened"] = "layer"
    """What is done to the teacher's tokens first: ``layer`` gives each mean 0 and deviation 1 (LayerNorm without
    affine); ``whitened`` gives them all mean 0, deviation 1 and no correlation, by statistics of the first steps over
    all processes, for a teacher that stands still."""
    statistics: Annotated[Duration, Range(0, 1e9, above=True)] = Duration(500)
    """Length of the start of the stage whose tokens give those statistics."""
    unit_length: bool = False
    """Bring the student's prediction and the teacher's token to length 1, after that (COMODO's L2 baseline)."""
    distance: Literal["l1", "l2", "smooth_l1", "cosine"] = "smooth_l1"
    """Absolute or squared difference, ``smooth_l1`` of ``beta``, or 1 - cosine."""
    beta: Positive = 2.0
    """Difference at which ``smooth_l1`` turns from squared to absolute."""
    cosine_share: Share = 0.0
    """Share of 1 - cosine in the loss, the rest is ``distance`` (GPFM's patches: 0.9, with ``smooth_l1`` of beta 1)."""
    layers: DepthOrNone = 2
    """Linear layers from a token of the student to one of the teacher, GELU between them; 0: none, for equal widths."""
    hidden: Side | None = None
    """Width between those layers; null: the teacher's."""

    def __post_init__(self) -> None:
        for name, value, kinds in (
            ("token", self.token, ("masked", "patches", "cls")),
            ("distance", self.distance, ("l1", "l2", "smooth_l1", "cosine")),
            ("normalise", self.normalise, ("none", "layer", "whitened")),
        ):
            if value not in kinds:
                there = ", ".join(map(repr, kinds))
                raise UserError(f"feature_distillation: {name} must be one of {there}, got {value!r}")
        if self.teacher_view not in (None, self.view) and self.token != "cls":
            raise UserError(
                f"feature_distillation: teacher_view {self.teacher_view!r} is not view {self.view!r}, so their "
                f"patches do not correspond: set token to cls, not {self.token}"
            )
        if self.cosine_share and self.distance == "cosine":
            raise UserError("feature_distillation: cosine_share is for a distance that is not 'cosine' already")
        check(self, "feature_distillation")

    def build(self, context: ObjectiveContext) -> FeatureDistillation:
        """The objective of a run.

        Raises:
            UserError: there is no such branch, head or mask rule; tokens of different widths and no layers between
                them; a class token behind a head that takes patches; grids that cannot be resized to each other.
        """
        return FeatureDistillation(self, context)


class FeatureDistillation(Objective):
    """See :class:`Config`.

    Attributes:
        predict: from a token of the student to one of the teacher.
        resize: from the teacher's grid to the student's; None where they are one.
        whiten: with ``normalise: whitened``.
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
        self.resize: Resize | None = None
        self.whiten: Whitening | None = None
        if config.token != "cls":
            self.resize = resize(context, (config.teacher, config.view), (config.student, config.view))
        if self.resize is not None and seen is not None:
            raise UserError(
                f"teacher_mask {seen!r} is drawn on the student's grid of {shown(self.resize.new)}, and branch "
                f"{config.teacher!r} has one of {shown(self.resize.old)}: leave teacher_mask out"
            )
        # A teacher with another grid is asked for its whole map, and the student's hidden places are taken from that.
        chosen_by = rule if config.token == "masked" and self.resize is None else None
        token: Token = "patches" if self.resize is not None else config.token
        self.mask_key = (config.view, rule or "")
        self.student_request = Request(config.student, config.view, config.token, config.head, config.tap, mask=rule)
        self.teacher_request = Request(
            config.teacher, self.teacher_view, token, config.teacher_head, config.teacher_tap, mask=seen, rule=chosen_by
        )
        self.requests = (self.teacher_request, self.student_request)
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
        if config.normalise == "whitened":
            self.whiten = Whitening(target, config.statistics.steps(context.clock))

    def forward(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        """Loss: mean over the tokens that count, those of all processes, and their numbers; 0 without any."""
        predicted = self.predict(outputs[self.student_request]).flatten(0, -2)
        target = outputs[self.teacher_request]
        if self.teacher_view != self.config.view:
            views = batch.views
            target = partners(target, views[self.teacher_view].count, views[self.config.view].count)
        if self.resize is not None:
            target = chosen(self.resize(target), self.student_request, batch)
        with torch.autocast(predicted.device.type, enabled=False):
            loss = self.difference(predicted.float(), target.flatten(0, -2).float(), step)
        return Result(batch.masks[self.mask_key].weighted(loss) if self.config.token == "masked" else loss)

    def difference(self, predicted: Tensor, target: Tensor, step: int) -> Tensor:
        """Mean distance of ``predicted`` from ``target``, both [tokens, numbers], at optimiser step ``step``."""
        if self.config.normalise == "layer":
            target = F.layer_norm(target, target.shape[-1:], eps=NORM_EPS)
        elif self.whiten is not None:  # also without any tokens: other processes may have some
            target = self.whiten(target, step)
        if not len(target):
            return predicted.sum()
        if self.config.unit_length:
            predicted, target = F.normalize(predicted, dim=-1), F.normalize(target, dim=-1)
        share = self.config.cosine_share
        if not share:
            return self._distance(predicted, target, self.config.distance)
        cosine = self._distance(predicted, target, "cosine")
        return share * cosine + (1.0 - share) * self._distance(predicted, target, self.config.distance)

    def _distance(self, predicted: Tensor, target: Tensor, kind: str) -> Tensor:
        if kind == "l1":
            return F.l1_loss(predicted, target)
        if kind == "l2":
            return F.mse_loss(predicted, target)
        if kind == "cosine":
            return 1.0 - F.cosine_similarity(predicted, target, dim=-1).mean()
        return F.smooth_l1_loss(predicted, target, beta=self.config.beta)
