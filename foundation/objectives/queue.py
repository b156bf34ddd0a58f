"""Queues of past features: what the newest rows push out, and how long a queue may be."""

from __future__ import annotations

import torch
from torch import Tensor

from foundation.errors import UserError


def check_size(size: int, samples: int | None) -> None:
    """Refuse a queue that would hold samples more than once.

    Args:
        size: rows.
        samples: of the data; None where that is not known.

    Raises:
        UserError: there are fewer samples than rows.
    """
    if samples and size > samples:
        raise UserError(
            f"queue is {size:,}, and the data has {samples:,} samples: a queue longer than the data holds samples "
            f"twice. Set queue to {samples:,} or less"
        )


@torch.no_grad()
def push(queue: Tensor, rows: Tensor, good: Tensor) -> None:
    """Put rows at the end of a queue, whose oldest go: first in, first out.

    Args:
        queue: [Q, ...], changed in place.
        rows: [N, ...], the oldest first; they may be more than the queue holds.
        good: [] bool on the device; where False the queue stays as it is.
    """
    if len(queue):
        queue.copy_(torch.where(good, torch.cat([queue, rows])[-len(queue) :], queue))
