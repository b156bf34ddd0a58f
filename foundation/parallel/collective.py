"""The only place that talks to a process group. Every function is the identity in a single process."""

from __future__ import annotations

from typing import Any

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


def logsumexp_over_ranks(tensor: Tensor) -> Tensor:
    """``log(sum(exp(tensor)))`` over all processes, elementwise, without overflow. Not differentiable."""
    if world_size() == 1:
        return tensor
    largest = tensor.clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    # Where every process says -inf (no rows anywhere), subtracting it would give nan.
    finite = torch.where(torch.isfinite(largest), largest, torch.zeros_like(largest))
    return finite + sum_over_ranks((tensor - finite).exp()).log()


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(world_size())]
        dist.all_gather(parts, tensor.contiguous())
        ctx.rows = tensor.shape[0]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = sum_over_ranks(gradient.clone(memory_format=torch.contiguous_format))
        return total[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def gather_rows(tensor: Tensor) -> Tensor:
    """Rows of all processes in the order of their ranks; each must bring the same number.

    Differentiable: the gradient of a row is the sum of the gradients that all processes have for it.
    """
    if world_size() == 1:
        return tensor
    gathered: Tensor = _GatherRows.apply(tensor)
    return gathered
