"""Which kind of device the operators are chosen for, while a step is only planned.

A plan runs the operators of a step on tensors without values. Such tensors lie on no GPU where there is none, but a plan
of a GPU must take the ways that the code takes there. Code that has a way of its own for a kind of device asks here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_PLANNED: ContextVar[str | None] = ContextVar("planned", default=None)


def kind(device: torch.device) -> str:
    """Kind of a device, such as ``cpu`` or ``cuda``; that which is planned for, inside :func:`planned_for`."""
    return _PLANNED.get() or device.type


@contextmanager
def planned_for(device: str) -> Iterator[None]:
    """Choose operators as on this kind of device, wherever the tensors lie."""
    token = _PLANNED.set(device)
    try:
        yield
    finally:
        _PLANNED.reset(token)
