"""Pseudo labels: a head learns the cluster that a job has put a sample in (DeepCluster, cluster-aware DINO, UnFuSeD).

Which cluster that is stands in a store. Some clusterings put samples where they do not belong, and networks learn those
last: a gate tells them by their loss (DLG-LC, Han, Chen and Qian 2023), and they learn from a teacher's prediction.
Letters: V views, B samples, K clusters, S samples of the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foundation.branches.request import Request
from foundation.errors import UserError
from foundation.objectives.base import Objective, ObjectiveContext, Result
from foundation.objectives.cross_entropy import soft_cross_entropy
from foundation.ranges import Range, Share, Temperature, check
from foundation.schedules import Duration, Weight
from foundation.types import Batch

_ROUNDS = 50  # of expectation and maximisation; two components of one number settle in about 20
_UNKNOWN = -1.0  # in the place of a loss
_LEAST_LOSS = 1e-6  # below this a logarithm says nothing of a sample


@dataclass(frozen=True, kw_only=True)
class Config:
    """Cross-entropy of a head's scores against the stored cluster of each sample, summed over the samples that have one
    and divided by all of the global batch. The head has a prototype for each cluster."""

    weight: Weight = 1.0
    """Factor of this loss in the total."""
    student: str = "student"
    """Name of the branch that learns."""
    mask: str | None = "masking"
    """Mask rule of the recipe under which the student sees views that it hides parts of; null: none."""
    head: str
    """Head of the recipe that says which cluster a class token is of."""
    views: tuple[str, ...] = ("global",)
    """Views whose class tokens learn."""
    store: str = "clusters"
    """Store that a job, ``cluster``, writes the clusters to. Samples of none (-1) teach nothing."""
    temperature: Temperature = 0.1
    """Softmax temperature of the scores, which are cosines: 1 / s for the scale s of a margin softmax."""
    margin: Annotated[float, Range(0, 1.5)] = 0.0
    """Angle in radians that is added between a token and the prototype of its cluster (ArcFace, Deng et al. 2019)."""
    gate: Annotated[Duration, Range(0, 1e9, above=True)] | None = None
    """How often two normal distributions are fitted to the logarithms of the samples' last losses. Between two fits
    only samples that belong to that of low losses learn their cluster; before the first all do. None: all, always."""
    teacher: str | None = None
    """With ``gate``: branch whose prediction the others learn; None: they teach nothing."""
    teacher_view: str = "global"
    """View that this teacher sees; its predictions are averaged over the views of the role."""
    confidence: Share = 0.5
    """Probability from which on a teacher's likeliest cluster counts."""
    sharpening: Temperature = 0.1
    """Temperature that a prediction is sharpened with before it is a target; 1 leaves it alone."""

    def __post_init__(self) -> None:
        check(self, "pseudo_label")
        if not self.views:
            raise UserError("pseudo_label: views is empty: name the views that learn")
        if self.teacher is not None and self.gate is None:
            raise UserError(
                "pseudo_label: a teacher corrects what a gate keeps out: give gate an interval, such as '1 epochs'"
            )

    def build(self, context: ObjectiveContext) -> PseudoLabel:
        """The objective of a run.

        Raises:
            UserError: no such head, it has no prototypes, or a margin between tokens and prototypes of any length.
        """
        head = context.head(self.student, self.head)
        clusters = context.prototypes(self.student, self.head)
        if self.margin and not head.freeze_scale:
            raise UserError(f"pseudo_label: a margin needs cosines: set heads.{self.head}.freeze_scale to true")
        if self.teacher is not None:
            context.prototypes(self.teacher, self.head)
        return PseudoLabel(self, context, clusters)


class PseudoLabel(Objective):
    """See :class:`Config`.

    Attributes:
        mixture: [3, 2] shares, means and variances of the two normal distributions, that of low losses first; with
            ``gate`` only.
        fitted: [] bool, whether there are any.
    """

    mixture: Tensor
    fitted: Tensor

    def __init__(self, config: Config, context: ObjectiveContext, clusters: int) -> None:
        super().__init__()
        self.config, self._stores = config, context.stores
        context.stores.open(config.store, (), torch.int64, fill=-1, classes=clusters)
        self.student_requests = tuple(
            Request(config.student, view, "cls", config.head, mask=context.mask(config.mask, view))
            for view in config.views
        )
        self.requests = self.student_requests
        self.every = 0
        if config.gate is not None:
            self.every = max(1, config.gate.steps(context.clock))
            context.stores.open(self._losses, (), torch.float32, fill=_UNKNOWN)
            self.register_buffer("mixture", torch.zeros(3, 2))
            self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        if config.teacher is not None:
            self.teacher_request = Request(config.teacher, config.teacher_view, "cls", config.head)
            self.requests = (self.teacher_request, *self.requests)
        self._step: int | None = None
        # A run that goes back to a checkpoint may come to the same step again, with other losses stored.
        self.register_load_state_dict_post_hook(PseudoLabel._begin_anew)

    @staticmethod
    def _begin_anew(module: PseudoLabel, incompatible: Any) -> None:
        module._step = None

    @property
    def _losses(self) -> str:
        return f"{self.config.store}_losses"

    def forward(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        """Loss; ``assigned`` (share of the samples that have a cluster), ``agreement`` (share of their views whose
        score is highest for it); with a gate ``reliable`` and with a teacher ``corrected``: shares that learn
        their cluster, and a prediction."""
        parts = [outputs[request] for request in self.student_requests]
        with torch.autocast(parts[0].device.type, enabled=False):
            scores = torch.cat([part.float().unflatten(0, (-1, batch.size)) for part in parts])  # [V, B, K]
            clusters = self._stores.opened[self.config.store].read(batch.index)
            known = clusters >= 0
            losses = self.losses(scores, clusters.clamp(min=0))  # [B]
            figures = {
                "assigned": known.float().mean(),
                "agreement": ((scores.argmax(dim=2) == clusters) & known).sum()
                / (known.sum() * len(scores)).clamp(min=1),
            }
            if not self.every:
                return Result((losses * known).sum() / batch.size, figures)
            reliable = self._gate(losses.detach(), known, batch, step)
            total = (losses * reliable).sum()
            figures["reliable"] = reliable.float().mean()
            if self.config.teacher is not None:
                corrections, sure = self._corrections(scores, outputs[self.teacher_request].float(), batch)
                sure &= known & ~reliable
                total = total + (corrections * sure).sum()
                figures["corrected"] = sure.float().mean()
            return Result(total / batch.size, figures)

    def losses(self, scores: Tensor, clusters: Tensor) -> Tensor:
        """Cross-entropy [B] of scores [V, B, K] against clusters [B], averaged over the views."""
        if self.config.margin:
            scores = with_margin(scores, clusters, self.config.margin)
        each = F.cross_entropy(
            (scores / self.config.temperature).flatten(0, 1), clusters.repeat(len(scores)), reduction="none"
        )
        return each.unflatten(0, (len(scores), -1)).mean(dim=0)

    def _corrections(self, scores: Tensor, teacher: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy [B] of scores [V, B, K] against the teacher's sharp prediction, and where it is sure [B]."""
        temperature = self.config.temperature
        predicted = torch.softmax(teacher.unflatten(0, (-1, batch.size)) / temperature, dim=2).mean(dim=0)  # [B, K]
        sharp = torch.softmax(predicted.clamp(min=1e-30).log() / self.config.sharpening, dim=1)
        sure = predicted.amax(dim=1) >= self.config.confidence
        return soft_cross_entropy(scores, sharp[None], temperature).mean(dim=0), sure

    @torch.no_grad()
    def _gate(self, losses: Tensor, known: Tensor, batch: Batch, step: int) -> Tensor:
        """[B] samples with a cluster that is to be trusted; the losses [B] are kept for the next fit."""
        store = self._stores.opened[self._losses]
        # The first micro-batch of a step fits, before a loss of the step is stored: their number is no matter then.
        if self.training and step and step % self.every == 0 and step != self._step:
            self._step = step
            mixture, enough = two_normals(store.values.clamp(min=_LEAST_LOSS).log(), store.values >= 0)
            self.mixture.copy_(torch.where(enough, mixture, self.mixture))
            self.fitted |= enough
        if self.training:
            store.write(batch.index, torch.where(known & losses.isfinite(), losses, _UNKNOWN))
        return known & (~self.fitted | is_low(losses.clamp(min=_LEAST_LOSS).log(), self.mixture))


def with_margin(cosines: Tensor, clusters: Tensor, margin: float) -> Tensor:
    """``cos(angle + margin)`` in the place of the cosine to the own cluster.

    Beyond an angle of pi - margin that would rise again; there the cosine falls by a constant, as in ArcFace.

    Args:
        cosines: [V, B, K].
        clusters: [B].
        margin: radians.
    """
    index = clusters[None, :, None].expand(len(cosines), -1, 1)
    own = cosines.gather(2, index)
    sine = (1 - own.square()).clamp(min=1e-6).sqrt()  # a root of 0 has no gradient
    turned = own * math.cos(margin) - sine * math.sin(margin)
    return cosines.scatter(2, index, torch.where(own > -math.cos(margin), turned, own - margin * math.sin(margin)))


def two_normals(values: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Two normal distributions fitted to numbers by expectation-maximisation; nothing waits for the device.

    Args:
        values: [S].
        there: [S] bool, those that count.

    Returns:
        [3, 2] shares, means and variances, the lower mean first; and whether two of the numbers differ, [] bool.
    """
    x, weight = torch.where(there, values, 0.0), there.to(values.dtype)
    count = weight.sum()
    mean = (x * weight).sum() / count.clamp(min=1)
    variance = ((x - mean).square() * weight).sum() / count.clamp(min=1)
    means = torch.stack([mean - variance.sqrt(), mean + variance.sqrt()])
    variances = torch.stack([variance, variance]).clamp(min=1e-6)
    shares = torch.full_like(means, 0.5)
    for _ in range(_ROUNDS):
        likely = torch.softmax(_log_densities(x, shares, means, variances), dim=0) * weight  # [2, S]
        mass = likely.sum(dim=1).clamp(min=1e-6)
        means = (likely * x).sum(dim=1) / mass
        variances = ((likely * (x - means[:, None]).square()).sum(dim=1) / mass).clamp(min=1e-6)
        shares = mass / mass.sum()
    found = torch.stack([shares, means, variances])
    return torch.where(means[0] <= means[1], found, found.flip(1)), variance > 0


def is_low(values: Tensor, mixture: Tensor) -> Tensor:
    """Whether numbers [B] belong to the lower of two normal distributions.

    A wide distribution has more mass far away on both sides; what lies beyond the mean of one belongs to it.
    """
    densities = _log_densities(values, *mixture.unbind(0))
    low, high = mixture[1]
    return ((densities[0] >= densities[1]) | (values <= low)) & (values < high)


def _log_densities(values: Tensor, shares: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """[2, S] up to a constant."""
    away = (values - means[:, None]).square() / variances[:, None]
    return shares.clamp(min=1e-12).log()[:, None] - 0.5 * (away + variances.log()[:, None])
