"""Which kind of device and how many processes a step is for, while it is only planned.

A plan runs the operators of a step in one process on tensors without values. Such tensors lie on no GPU where there is
none, and no other process is there; but a plan must take the ways that the code takes where they are. Code that has a
way of its own for a kind of device asks here, and so does what talks to other processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Planned:
    """What is planned for.

    Attributes:
        device: kind of device, such as ``cuda``.
        processes: that train together.
        summed: bytes of each tensor that is summed over all processes, in the order of the calls.
        gathered: bytes of each tensor that is made of one of every process.
    """

    device: str
    processes: int = 1
    summed: list[int] = field(default_factory=list)
    gathered: list[int] = field(default_factory=list)

    def sum(self, tensor: Tensor) -> None:
        """Note that it would be summed."""
        self.summed.append(tensor.numel() * tensor.element_size())

    def gather(self, parts: Sequence[Tensor]) -> None:
        """Note that they would be gathered, one of each process."""
        self.gathered.append(sum(part.numel() * part.element_size() for part in parts))


_PLANNED: ContextVar[Planned | None] = ContextVar("planned", default=None)


def now() -> Planned | None:
    """What is planned for; None in a real run."""
    return _PLANNED.get()


def kind(device: torch.device) -> str:
    """Kind of a device, such as ``cpu`` or ``cuda``; that which is planned for, inside :func:`planning`."""
    plan = now()
    return device.type if plan is None else plan.device


@contextmanager
def planning(device: str, processes: int = 1) -> Iterator[Planned]:
    """Choose operators as on this kind of device and for so many processes, wherever the tensors lie."""
    plan = Planned(device, processes)
    token = _PLANNED.set(plan)
    try:
        yield plan
    finally:
        _PLANNED.reset(token)
