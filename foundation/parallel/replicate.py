"""Data parallel training: every process holds the whole model, gradients are averaged during the backward pass."""

from __future__ import annotations

import inspect
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from foundation.parallel.batch_norm import synchronise
from foundation.parallel.collective import world_size


def replicate(module: nn.Module, device: torch.device, find_unused: bool = True) -> nn.Module:
    """Wrap a module in DistributedDataParallel; a single process gets the module itself.

    Process 0's parameters and buffers are copied to all. Later changes of buffers (centres, queues, running statistics,
    an EMA teacher) are each process's own: they follow from gradients and reduced statistics that are equal everywhere.
    BatchNorm is made to count the rows of all processes. Every save compares the processes (``engine/agreement.py``).

    Args:
        module: to train.
        device: where it lies.
        find_unused: some parameters may get no gradient in some step; looking for them costs a walk over the graph.

    More than two processes always look: a replica that does not arranges its gradients anew after the first step, three
    numbers are then added up in another order, and a run that goes on from a checkpoint differs from one that never
    stopped.
    """
    if world_size() == 1:
        return module
    synchronise(module)
    warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
    kind = nn.parallel.DistributedDataParallel
    renamed = "forward_sync_buffers" in inspect.signature(kind.__init__).parameters  # in torch 2.15
    settings: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    return kind(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        find_unused_parameters=find_unused or world_size() > 2,
        **settings,
    )


def without_sync(module: nn.Module) -> AbstractContextManager[Any]:
    """While entered, gradients are added up and stay local: for all but the last micro-batch of a step."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return module.no_sync()
    return nullcontext()
