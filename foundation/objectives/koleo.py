"""KoLeo: spread features over the sphere by pushing nearest neighbours apart (Sablayrolles et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from foundation.branches.request import Request
from foundation.errors import UserError
from foundation.objectives.base import Objective, ObjectiveContext, Result
from foundation.parallel import collective
from foundation.ranges import Count, Range, check
from foundation.schedules import Weight
from foundation.types import Batch


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nearest-neighbour entropy estimate on the student's class tokens before the head."""

    weight: Weight = 0.1
    """Factor of this loss in the total."""
    student: str = "student"
    """Name of the branch that learns."""
    mask: str | None = "masking"
    """Mask rule of the recipe under which the student sees views that it hides parts of; null: none."""
    view: str = "global"
    """View whose class tokens are spread; its views count separately and are summed, as in DINOv2."""
    neighbours: Count = 1
    """Nearest neighbours of each sample (DINOv3: more than one)."""
    across_processes: bool = True
    """Search neighbours in the batches of all processes (DINOv3), so that any number of processes gives the same
    numbers. False: in this process's alone (DINOv2); the loss then depends on how many processes share a batch."""
    group: Annotated[int, Range(2, 2**24)] | None = None
    """With ``across_processes``: search only in groups of this many consecutive samples; None: among all."""

    def __post_init__(self) -> None:
        check(self, "koleo")
        if self.group is not None and not self.across_processes:
            raise UserError("koleo: group needs across_processes: true")

    def build(self, context: ObjectiveContext) -> Koleo:
        """The objective of a run."""
        return Koleo(self, context)


class Koleo(Objective):
    """KoLeo loss. See :class:`Config`."""

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        if config.across_processes and context.offer(config.student).per_rank:
            raise UserError(
                f"koleo: processes have features of branch {config.student!r} of different widths (per_rank), which "
                "cannot be compared: set across_processes: false"
            )
        self.request = Request(config.student, config.view, "cls", mask=context.mask(config.mask, config.view))
        self.requests = (self.request,)

    def forward(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        """Loss and ``distance``, the mean distance to the nearest neighbour (0 when features have collapsed)."""
        config, features = self.config, outputs[self.request]
        views = features.unflatten(0, (batch.views[config.view].count, -1))
        parts = [
            koleo(view, neighbours=config.neighbours, across_processes=config.across_processes, group=config.group)
            for view in views.unbind(0)
        ]
        distance = torch.stack([d for _, d in parts]).mean()
        return Result(torch.stack([loss for loss, _ in parts]).sum(), {"distance": distance})


def koleo(
    features: Tensor, neighbours: int = 1, across_processes: bool = False, group: int | None = None
) -> tuple[Tensor, Tensor]:
    """``-mean log(d + eps)`` with d the distance to the nearest neighbours on the unit sphere, in float32.

    Args:
        features: [B, D].
        neighbours: nearest ones that count for each sample; fewer when there are not as many.
        across_processes: search the rows of all processes; gradients reach those as well.
        group: rows (of the concatenation over processes) among which neighbours are searched.

    Returns:
        Loss (0 where a sample has no other to be compared with: a lone sample has no distance, and a large constant
        would only disturb the curves) and mean distance, both scalars.
    """
    # float16 cannot hold the gradient 1 / eps of samples that coincide or vanish, and cannot tell such samples apart.
    half = features.dtype == torch.float16
    eps, smallest_norm = (1e-4, 1e-2) if half else (1e-8, 1e-8)
    with torch.autocast(features.device.type, enabled=False):
        x = F.normalize(features.float(), dim=-1, eps=smallest_norm)
        everyone = collective.gather_rows(x) if across_processes else x
        first = collective.rank() * len(x) if across_processes else 0
        own = torch.arange(first, first + len(x), device=x.device)
        candidates = len(everyone) if group is None else min(group, len(everyone))
        nearest = min(neighbours, candidates - 1)
        if nearest < 1:
            return x.sum() * 0.0, x.new_zeros(())
        with torch.no_grad():
            closeness = x @ everyone.T  # [B, candidates]
            if group is not None:
                place = torch.arange(len(everyone), device=x.device)
                closeness.masked_fill_(own[:, None] // group != place[None] // group, -2.0)
            closeness.scatter_(1, own[:, None], -3.0)
            index = closeness.topk(nearest, dim=1).indices  # [B, nearest]
        distance = torch.linalg.vector_norm(x[:, None] - everyone[index] + eps, dim=-1)
        return -torch.log(distance + eps).mean(), distance.detach().mean()
