"""Floating point operations of a call, counted on the operators that it really calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

_PRODUCTS = ("attention", "attn", "mm", "convolution", "linear")
"""What is in the names of operators that do most of their work in matrix products."""


@dataclass(frozen=True)
class Counted:
    """Floating point operations of one call.

    Attributes:
        total: multiplications and additions of matrix products, convolutions and attention, forward and backward,
            with what is computed twice counted twice. Element by element work is not counted.
        by_operator: the same by operator.
        uncounted: operators that were called, do matrix products by their names, and have no formula: the total is
            too small by theirs.
    """

    total: int
    by_operator: Mapping[str, int]
    uncounted: tuple[str, ...]


class _Names(TorchDispatchMode):
    """Remembers which operators were called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(func._overloadpacket)
        return func(*args, **(kwargs or {}))


def count_flops(call: Callable[[], object], device: torch.device) -> Counted:
    """Run a call once and count.

    Compiled code cannot be counted: count the same call uncompiled.

    Args:
        call: such as one training step, backward included.
        device: of its tensors. On a CPU, attention is written out by torch for the time of the count, because there is
            no formula for the fused kernel; the number of operations is the same.
    """
    names = _Names()
    written_out = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
    with written_out, names, FlopCounterMode(display=False) as counter:
        call()
    by_operator = {str(name): int(number) for name, number in counter.get_flop_counts().get("Global", {}).items()}
    unknown = {packet for packet in names.seen if packet not in flop_registry}
    uncounted = sorted(str(packet) for packet in unknown if any(word in str(packet) for word in _PRODUCTS))
    return Counted(int(counter.get_total_flops()), by_operator, tuple(uncounted))
