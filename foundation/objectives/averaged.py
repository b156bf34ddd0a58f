"""One objective behind several heads: the mean of their losses (POA, Zhang et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from foundation.branches.request import Request
from foundation.objectives.base import Objective, Result
from foundation.types import Batch


class Averaged(Objective):
    """Mean of objectives that differ in their head only.

    Args:
        parts: one for each head.
    """

    def __init__(self, parts: Sequence[Objective]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.requests = tuple(dict.fromkeys(request for part in parts for request in part.requests))
        plateaus = [part.plateau for part in parts if part.plateau is not None]
        self.plateau = sum(plateaus) / len(plateaus) if len(plateaus) == len(parts) else None

    def forward(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        """Mean of the losses, and of each figure."""
        results = []
        for part in self.parts:
            part.watched = self.watched  # type: ignore[assignment]
            results.append(part(outputs, batch, step))
        names = results[0].metrics
        metrics = {name: torch.stack([result.metrics[name] for result in results]).mean() for name in names}
        return Result(torch.stack([result.loss for result in results]).mean(), metrics, results[0].items)
