"""Tensors that are spread over the processes of a run (``DTensor``): which block of one this process holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from foundation.parallel.collective import world_size

Groups = Mapping[str, Mapping[str, Tensor]]
"""Tensors by group and key, as a checkpoint keeps them."""


@dataclass(frozen=True)
class Block:
    """A rectangular part of a tensor.

    Attributes:
        tensor: its numbers, [sizes]; shares memory with the tensor that it is of.
        offsets: where it begins in each dimension.
        shape: of the whole tensor.
        replica: number of this copy of the block, from 0.
        replicas: processes that hold a copy.
    """

    tensor: Tensor
    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    replica: int = 0
    replicas: int = 1


def is_sharded(tensor: Tensor) -> bool:
    """Whether other processes hold parts of it; a plain tensor is whole in each."""
    if not dist.is_available() or not dist.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def any_sharded(groups: Groups) -> bool:
    """Whether any tensor is."""
    return any(is_sharded(tensor) for group in groups.values() for tensor in group.values())


def local(tensor: Tensor) -> Tensor:
    """The numbers that this process holds: its block of a sharded tensor, or the tensor itself."""
    return block_of(tensor).tensor


def block_of(tensor: Tensor) -> Block:
    """What this process holds of a tensor; of a plain one, a copy of the whole, of which there is one for each."""
    if not is_sharded(tensor):
        own = tensor.detach()
        return Block(own, (0,) * own.ndim, tuple(own.shape), dist.get_rank() if _together() else 0, world_size())
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    assert isinstance(tensor, DTensor)
    mesh, coordinate = tensor.device_mesh, tensor.device_mesh.get_coordinate()
    assert coordinate is not None, "every process of a run takes part in its mesh"
    _, offsets = compute_local_shape_and_global_offset(tensor.shape, mesh, tensor.placements)
    replica, replicas = 0, 1
    for dimension, placement in enumerate(tensor.placements):
        if placement.is_replicate():
            size = mesh.size(dimension)
            replica, replicas = replica * size + coordinate[dimension], replicas * size
    return Block(tensor.to_local().detach(), tuple(offsets), tuple(tensor.shape), replica, replicas)


def with_block(tensor: Tensor, block: Tensor) -> Tensor:
    """A tensor that is spread like another one.

    Args:
        tensor: plain or sharded.
        block: what this process holds of it, on any device; the whole where ``tensor`` is plain.

    Returns:
        ``block`` itself where ``tensor`` is plain; else a sharded tensor on the device of ``tensor``.
    """
    if not is_sharded(tensor):
        return block
    from torch.distributed.tensor import DTensor

    assert isinstance(tensor, DTensor)
    return DTensor.from_local(
        block.to(tensor.to_local().device), tensor.device_mesh, tensor.placements, run_check=False,
        shape=tensor.shape, stride=tensor.stride(),
    )  # fmt: skip


def first_holders(tensor: Tensor) -> Tensor:
    """[processes] int64: for each process, the first one that holds a copy of the same block; 0 for a plain tensor."""
    count = world_size()
    if not is_sharded(tensor):
        return torch.zeros(count, dtype=torch.int64)
    from torch.distributed.tensor import DTensor

    assert isinstance(tensor, DTensor)
    ranks = tensor.device_mesh.mesh  # [sizes of the mesh]
    for dimension, placement in enumerate(tensor.placements):
        if placement.is_replicate():
            ranks = ranks.amin(dim=dimension, keepdim=True)
    first = torch.arange(count)
    first[tensor.device_mesh.mesh.flatten()] = ranks.expand(tensor.device_mesh.mesh.shape).flatten()
    return first


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()
