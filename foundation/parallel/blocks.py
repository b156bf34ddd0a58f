"""Which block of a sharded tensor lies in which process: what a checkpoint must know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from foundation.parallel.collective import rank, world_size
from foundation.parallel.shards import is_sharded, local

Groups = Mapping[str, Mapping[str, Tensor]]
"""Tensors by group and key, as a checkpoint keeps them."""


@dataclass(frozen=True)
class Block:
    """A rectangular part of a tensor.

    Attributes:
        tensor: its numbers; shares memory with the tensor that it is of.
        offsets: where it begins in each dimension.
        shape: of the whole tensor.
        copy: number of this copy of the block, from 0.
        copies: processes that hold one.
    """

    tensor: Tensor
    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    copy: int = 0
    copies: int = 1


def any_sharded(groups: Groups) -> bool:
    """Whether other processes hold parts of any of these tensors."""
    return any(is_sharded(tensor) for group in groups.values() for tensor in group.values())


def block_of(tensor: Tensor) -> Block:
    """What this process holds of a tensor; of a plain one, its copy of the whole."""
    own = local(tensor)
    if not is_sharded(tensor):
        return Block(own, (0,) * own.ndim, tuple(own.shape), rank(), world_size())
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    sharded: Any = tensor
    mesh, coordinate = sharded.device_mesh, sharded.device_mesh.get_coordinate()
    _, offsets = compute_local_shape_and_global_offset(sharded.shape, mesh, sharded.placements)
    copy, copies = 0, 1
    for dimension, placement in enumerate(sharded.placements):
        if placement.is_replicate():
            size = mesh.size(dimension)
            copy, copies = copy * size + coordinate[dimension], copies * size
    return Block(own, tuple(offsets), tuple(tensor.shape), copy, copies)


def first_holders(tensor: Tensor) -> Tensor:
    """[processes] int64: for each process, the first one that holds a copy of the same block; 0 for a plain tensor."""
    sharded: Any = tensor
    if not is_sharded(tensor):
        return torch.zeros(world_size(), dtype=torch.int64)
    return _first_holders(sharded.device_mesh, sharded.placements, world_size())


@lru_cache(maxsize=8)  # thousands of tensors have one of a few layouts
def _first_holders(mesh: Any, placements: tuple[Any, ...], processes: int) -> Tensor:
    ranks: Tensor = mesh.mesh.to("cpu", torch.int64)  # in the form of the mesh
    first = ranks
    for dimension, placement in enumerate(placements):
        if placement.is_replicate():
            first = first.amin(dim=dimension, keepdim=True)
    result = torch.arange(processes)
    result[ranks.flatten()] = first.expand(ranks.shape).flatten()
    return result
