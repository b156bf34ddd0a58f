"""The only place that talks to a process group. Every function is the identity in a single process."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if _active() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if _active() else 0


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum of a tensor over all processes, in place, on its device. Not differentiable."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """Mean of a tensor over all processes, in place. Not differentiable."""
    return sum_over_ranks(tensor).div_(world_size()) if world_size() > 1 else tensor


def any_rank(flag: bool, device: torch.device | str = "cpu") -> bool:
    """Whether the flag is set on any process; every process gets the same answer."""
    if world_size() == 1:
        return flag
    return bool(sum_over_ranks(torch.tensor(float(flag), device=device)).item())
