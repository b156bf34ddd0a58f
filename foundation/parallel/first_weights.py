"""First weights made by process 0 alone: the others build on the meta device, without memory, and are sent theirs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from foundation.parallel.collective import gather_json, rank, world_size
from foundation.parallel.shards import local, part_of
from foundation.weights import tensors_of

_SENT: ContextVar[bool] = ContextVar("sent", default=False)


@contextmanager
def made_by_first(wanted: bool) -> Iterator[None]:
    """While entered, modules that are built have numbers in process 0 alone; :func:`send` gives them to all.

    Args:
        wanted: False, or a single process: nothing is different.
    """
    if not wanted or rank() == 0:
        yield
        return
    token = _SENT.set(True)
    try:
        with torch.device("meta"):
            yield
    finally:
        _SENT.reset(token)


def is_plan() -> bool:
    """Whether what is built now never gets numbers, as in a dry run: nothing needs to be fetched for it."""
    return torch.get_default_device().type == "meta" and not _SENT.get()


@torch.no_grad()
def send(module: nn.Module, first: dict[str, Tensor], device: torch.device) -> None:
    """Send what was built on the meta device from process 0 to all, one tensor at a time; all call this together.

    Args:
        module: built under :func:`made_by_first`; its parameters may lie in shards by now.
        first: in process 0, all tensors of the module before it was sharded.
        device: where the tensors shall lie.
    """
    if world_size() == 1:
        return
    missing = [name for name, tensor in tensors_of(module).items() if tensor.is_meta]
    module._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor)
    names: list[str] = next((wanted for wanted in gather_json(missing) if wanted), [])
    own = tensors_of(module)
    for name in names:
        target = own[name]
        value = torch.empty(target.shape, dtype=target.dtype, device=device)
        if rank() == 0:
            value.copy_(first[name])
        dist.broadcast(value, 0)
        if name in missing:
            local(target).copy_(local(part_of(value, target)))
