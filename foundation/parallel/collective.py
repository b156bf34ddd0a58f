"""The only place that talks to a process group. Every function is the identity in a single process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor

from foundation import planned
from foundation.errors import FoundationError

T = TypeVar("T")
K = TypeVar("K")


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Number of processes that train together."""
    if (plan := planned.now()) is not None:
        return plan.processes
    return dist.get_world_size() if _active() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if _active() else 0


def group_beside(timeout_seconds: float) -> dist.ProcessGroup | None:
    """A group of all processes for what a thread exchanges beside the training; None for a single process.

    Training must not use it: two threads that exchange over one group mix up their messages. All processes call this
    together.

    Args:
        timeout_seconds: a process that waits for another one for so long gives up.
    """
    if world_size() == 1:
        return None
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))
    assert isinstance(group, dist.ProcessGroup)  # every process is a member
    return group


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum of a tensor over all processes, in place, on its device. Not differentiable."""
    if world_size() > 1:
        _reduce(tensor, dist.ReduceOp.SUM)
    return tensor


def _reduce(tensor: Tensor, operation: Any) -> None:
    if (plan := planned.now()) is not None:
        plan.sum(tensor)
    else:
        dist.all_reduce(tensor, op=operation)


def any_rank(flag: bool, device: torch.device | str = "cpu") -> bool:
    """Whether the flag is set on any process; every process gets the same answer."""
    if world_size() == 1:
        return flag
    return bool(sum_over_ranks(torch.tensor(float(flag), device=device)).item())


def sums_over_ranks(values: Mapping[K, float]) -> dict[K, float]:
    """Sums of some numbers of the host over all processes, by name; one exchange, the device is not waited for."""
    if world_size() == 1:
        return dict(values)
    total = sum_over_ranks(torch.tensor(list(values.values()), dtype=torch.float64))
    return dict(zip(values, total.tolist(), strict=True))


def gather_json(value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """A JSON value of every process, in the order of their ranks.

    Args:
        value: of this process.
        group: that of :func:`group_beside`; None: that of the training.
    """
    if world_size() == 1:
        return [value]
    own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(own)]), group=group)
    longest = int(max(sizes))
    parts = [torch.empty(longest, dtype=torch.uint8) for _ in sizes]
    dist.all_gather(parts, torch.nn.functional.pad(own, (0, longest - len(own))), group=group)
    return [json.loads(bytes(part[: int(size)].tolist())) for part, size in zip(parts, sizes, strict=True)]


def gather_to_first(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Small CPU tensors of every process, by rank, on process 0; an empty list elsewhere. Sizes may differ."""
    if world_size() == 1:
        return [dict(tensors)]
    shapes = gather_json({name: [str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in tensors.items()})
    if rank() != 0:
        for tensor in tensors.values():
            dist.send(tensor.contiguous(), 0)
        return []
    everything = [dict(tensors)]
    for source in range(1, world_size()):
        received = {}
        for name, (dtype, shape) in shapes[source].items():
            received[name] = torch.empty(shape, dtype=getattr(torch, dtype))
            dist.recv(received[name], source)
        everything.append(received)
    return everything


def gather_to_all(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """CPU tensors of every process, by rank, on all of them. Names are the same everywhere, sizes and dtypes may
    differ."""
    if world_size() == 1:
        return [dict(tensors)]
    shapes = gather_json({name: [str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in tensors.items()})
    everything: list[dict[str, Tensor]] = []
    for source, described in enumerate(shapes):
        received = {}
        for name, (dtype, shape) in described.items():
            own = source == rank()
            value = tensors[name].contiguous() if own else torch.empty(shape, dtype=getattr(torch, dtype))
            if value.numel():
                dist.broadcast(value, source)
            received[name] = value
        everything.append(received)
    return everything


def on_first_rank(action: Callable[[], T]) -> T:
    """Let process 0 do something and give its JSON result to all.

    Raises:
        FoundationError: the one that process 0 met, in every process.
    """
    if world_size() == 1:
        return action()
    result: list[Any] = [None, None, None]
    failure: FoundationError | None = None
    if rank() == 0:
        try:
            result[0] = action()
        except FoundationError as error:
            failure = error
            result[1:] = [str(error), error.exit_code]
    value, message, exit_code = gather_json(result)[0]
    if failure is not None:
        raise failure
    if message is not None:
        told = FoundationError(message)
        told.exit_code = exit_code
        raise told
    return value  # type: ignore[no-any-return]


def on_all_ranks(action: Callable[[], T]) -> T:
    """Let every process do something that may fail in some of them; they exchange nothing meanwhile.

    Raises:
        FoundationError: in every process: its own, or that of the first in which it failed.
    """
    if world_size() == 1:
        return action()
    result: list[T] = []
    failure: FoundationError | None = None
    try:
        result.append(action())
    except FoundationError as error:
        failure = error
    said = gather_json(None if failure is None else [str(failure), failure.exit_code])
    if failure is not None:
        raise failure
    for number, words in enumerate(said):
        if words is not None:
            told = FoundationError(f"process {number}: {words[0]}")
            told.exit_code = words[1]
            raise told
    return result[0]


def logsumexp_over_ranks(tensor: Tensor) -> Tensor:
    """``log(sum(exp(tensor)))`` over all processes, elementwise, without overflow. Not differentiable."""
    if world_size() == 1:
        return tensor
    largest = tensor.clone()
    _reduce(largest, dist.ReduceOp.MAX)
    # Where every process says -inf (no rows anywhere), subtracting it would give nan.
    finite = torch.where(torch.isfinite(largest), largest, torch.zeros_like(largest))
    return finite + sum_over_ranks((tensor - finite).exp()).log()


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(world_size())]
        if (plan := planned.now()) is not None:
            plan.gather(parts)
        else:
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


def gather_views(tensor: Tensor, views: int) -> Tensor:
    """Rows of all processes, view-major as in the batch of a single process: view, process, sample.

    Args:
        tensor: [V B, ...], view-major.
        views: number of views V.
    """
    if world_size() == 1:
        return tensor
    gathered: Tensor = rearrange(gather_rows(tensor), "(p v b) ... -> (v p b) ...", p=world_size(), v=views)
    return gathered
