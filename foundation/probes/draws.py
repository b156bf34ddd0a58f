"""Small training splits drawn from a large one: a share of every class, or a number of samples of each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Amount:
    """How many training samples of each class have a label.

    Attributes:
        share: of the class, at least one; None: ``count``.
        count: of each class; classes that have fewer give all.
    """

    share: float | None = None
    count: int = 1

    def __str__(self) -> str:
        return f"{self.count} per class" if self.share is None else f"{100 * self.share:g} %"

    def of(self, members: int) -> int:
        """How many of a class of so many are taken."""
        wanted = self.count if self.share is None else max(1, math.floor(members * self.share + 0.5))
        return min(members, wanted)


def drawn(labels: Tensor, amount: Amount, seed: int) -> Tensor:
    """Rows of a draw, ascending.

    Args:
        labels: [S] int64.
        amount: of each class.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for label in labels.unique(sorted=True):
        members = (labels == label).nonzero().flatten()
        rows.append(members[torch.randperm(len(members), generator=generator)[: amount.of(len(members))]])
    return torch.cat(rows).sort().values
