"""What objectives with prototype targets share: choosing the transform, checking settings, figures to watch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from foundation import heads as head_module
from foundation import ranges
from foundation.errors import UserError
from foundation.objectives.base import Objective
from foundation.objectives.centering import Centering, SinkhornKnopp


def check(objective: str, config: Any) -> None:
    """Refuse impossible settings of a config with the usual target fields.

    Raises:
        UserError: naming field, value and what would be right.
    """
    ranges.check(config, objective)
    if config.target not in ("centering", "sinkhorn"):
        raise UserError(f"{objective}: target must be 'centering' or 'sinkhorn', got {config.target!r}")


def prototypes(objective: str, head: str, heads: Mapping[str, head_module.Config]) -> int:
    """Outputs of a head of the recipe.

    Raises:
        UserError: when the recipe has no such head, or it has no prototypes.
    """
    if head not in heads:
        there = ", ".join(heads) or "none"
        raise UserError(f"{objective}: no head called {head!r}; the recipe's heads are: {there}")
    count = heads[head].prototypes
    if count is None:
        raise UserError(f"{objective}: head {head!r} has no prototypes: give heads.{head}.prototypes a number")
    return count


def build(config: Any, count: int) -> nn.Module:
    """The target transform that a config names, for ``count`` prototypes."""
    if config.target == "sinkhorn":
        return SinkhornKnopp(config.sinkhorn_iterations)
    return Centering(count, config.centre_momentum)


@torch.no_grad()
def figures(objective: Objective, assignments: Tensor, loss: Tensor) -> dict[str, Tensor]:
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


def _entropy_and_prototypes(assignments: Tensor) -> tuple[Tensor, Tensor]:
    rows, count = assignments.shape
    if rows == 0:
        return assignments.new_zeros(()), assignments.new_zeros(())
    logs = assignments.clamp(min=torch.finfo(assignments.dtype).tiny).log_()  # torch.special.entr is ten times slower
    entropy = -logs.mul_(assignments).sum() / rows
    used = assignments.new_zeros(count).index_fill_(0, assignments.argmax(dim=1), 1.0)
    return entropy, used.sum() / min(rows, count)
