"""Tensors of which a process holds a part: what is computed part by part needs no exchange.

Everything here takes plain tensors as well and gives them back as they are. The library that has sharded tensors is
only imported by runs that shard.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether this is a ``DTensor``, of which a process holds a part or a copy."""
    library: Any = sys.modules.get("torch.distributed.tensor")
    return library is not None and isinstance(tensor, library.DTensor)


def _sharded(tensor: Any) -> Any:
    return tensor


def local(tensor: Tensor) -> Tensor:
    """The part that lies here, sharing its memory; it may have no numbers. Without gradient."""
    with torch.no_grad():
        part: Tensor = _sharded(tensor).to_local() if is_sharded(tensor) else tensor
    return part.detach() if part.requires_grad else part


def whole(tensor: Tensor) -> Tensor:
    """The tensor with all its numbers, in every process; all must call this. Without gradient."""
    with torch.no_grad():
        return _sharded(tensor.detach()).full_tensor() if is_sharded(tensor) else tensor.detach()  # type: ignore[no-any-return]


def laid_out_as(part: Tensor, like: Tensor) -> Tensor:
    """A sharded tensor of the layout of another one.

    Args:
        part: what lies here.
        like: tensor whose mesh, placements and shape it has; where it is plain, ``part`` is given back.
    """
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    layout: Any = like
    return DTensor.from_local(
        part, layout.device_mesh, layout.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def part_of(full: Tensor, like: Tensor) -> Tensor:
    """What lies here of a tensor that has all its numbers, as a sharded tensor of the layout of ``like``; nothing is
    exchanged."""
    if not is_sharded(like):
        return full
    from torch.distributed.tensor import distribute_tensor

    layout: Any = like
    return distribute_tensor(full, layout.device_mesh, layout.placements, src_data_rank=None)


def squared_sums(own: Tensor, sharded: Iterable[Tensor]) -> Tensor:
    """Sums of squares [P] over the parts that a sharded tensor has in other processes.

    Args:
        own: [P] sums over what lies here.
        sharded: a tensor of the layout that all of them have; the first that is sharded counts.

    Returns:
        ``own`` where none is sharded.
    """
    first: Any = next((tensor for tensor in sharded if is_sharded(tensor)), None)
    if first is None:
        return own
    mesh = first.device_mesh
    group = mesh.get_group(mesh.ndim - 1)
    total = own.clone()
    dist.all_reduce(total, group=group)
    return total
