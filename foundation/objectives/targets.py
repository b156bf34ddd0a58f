"""What objectives with prototype targets share: choosing the transform, checking settings, figures to watch."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn

from foundation import ranges
from foundation.chunks import Rows, row_parts
from foundation.errors import UserError
from foundation.objectives.base import Objective, ObjectiveContext
from foundation.objectives.centering import Centering, SinkhornKnopp


def check(objective: str, config: Any) -> None:
    """Refuse impossible settings of a config with the usual target fields.

    Raises:
        UserError: naming field, value and what would be right.
    """
    ranges.check(config, objective)
    if config.target not in ("centering", "sinkhorn"):
        raise UserError(f"{objective}: target must be 'centering' or 'sinkhorn', got {config.target!r}")


def build(config: Any, count: int, context: ObjectiveContext, *made_of: Hashable) -> nn.Module:
    """The target transform that a config names, for ``count`` prototypes.

    Objectives whose targets are made of the same (a request, a temperature) share one: it is computed once in a step,
    and its centre moves once.

    Args:
        config: with the usual target fields.
        count: prototypes.
        context: of the objective.
        made_of: what the targets depend on beside the config's target fields.
    """
    settings = (config.target, config.centre_momentum, config.sinkhorn_iterations, config.teacher_temperature)
    key = (*settings, *made_of)
    if key in context.targets:
        return SharedTarget(context.targets[key])
    made = (
        SinkhornKnopp(config.sinkhorn_iterations)
        if config.target == "sinkhorn"
        else Centering(count, config.centre_momentum)
    )
    context.targets[key] = made
    return made


class SharedTarget(nn.Module):
    """Hands over what another objective's transform has just made of the same scores."""

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        self._made: list[tuple[Tensor, Tensor | Rows]] = []
        owner.register_forward_hook(lambda _, arguments, targets: self._made.append((arguments[0], targets)))

    def forward(
        self,
        scores: Tensor,
        temperature: float,
        step: int | None = None,
        over: Tensor | None = None,
        whole: bool = True,
    ) -> Tensor | Rows:
        """Assignments [R, K] of scores [R, K]."""
        seen, targets = self._made.pop()
        self._made.clear()
        assert seen is scores, "the owner of these targets was asked about other scores"
        return targets


@torch.no_grad()
def figures(objective: Objective, assignments: Tensor | Rows, loss: Tensor) -> dict[str, Tensor]:
    """What tells a collapse, as device scalars, no wait for the device; nothing where the objective is not watched.

    ``entropy`` is the mean over rows (nats; log K for uniform targets, 0 for one-hot ones). ``kl`` is the loss less
    that entropy. ``prototypes`` is the number of prototypes that are the first choice of some row, as a share of the
    largest number possible, min(R, K).

    Args:
        objective: whose figures they are.
        assignments: [R, K].
        loss: mean cross-entropy with them.
    """
    if not objective.watched:
        return {}
    entropy, prototypes = _entropy_and_prototypes(assignments)
    return {"entropy": entropy, "prototypes": prototypes, "kl": loss.detach() - entropy}


def _entropy_and_prototypes(assignments: Tensor | Rows) -> tuple[Tensor, Tensor]:
    rows, count = assignments.shape
    total, used = torch.zeros(1 + count, device=assignments.device).split([1, count])
    for part in row_parts(assignments):
        some = assignments[part]
        logs = some.clamp(min=torch.finfo(some.dtype).tiny).log_()  # torch.special.entr is ten times slower
        total -= logs.mul_(some).sum()
        used.index_fill_(0, some.argmax(dim=1), 1.0)
    return total[0] / max(1, rows), used.sum() / max(1, min(rows, count))
