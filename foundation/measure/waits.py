"""What a step asks of the host: waits for the device, and kernels to launch."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

SIGN = "called a synchronizing CUDA operation"
"""What torch's warning says."""


@dataclass
class Waits:
    """Waits of the host for the device, by the line of Python that caused them."""

    places: Counter[str] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """Of all places."""
        return sum(self.places.values())


@contextmanager
def host_waits() -> Iterator[Waits]:
    """Counts the waits of what is done inside; there are none without a GPU.

    The count is complete when the block ends. Waits in the threads of a loader or in other processes do not count.
    """
    found = Waits()
    if not torch.cuda.is_available():
        yield found
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
    found.places.update(place(one) for one in caught if SIGN in str(one.message))


def place(warning: warnings.WarningMessage) -> str:
    """``folder/file.py:line`` of a warning."""
    path = Path(warning.filename)
    return f"{path.parent.name}/{path.name}:{warning.lineno}"


@dataclass(frozen=True)
class Launches:
    """What a call hands to the device.

    Attributes:
        kernels: launched one by one.
        graphs: CUDA graphs launched.
        operators: of torch, called from Python or by another one.
        device_seconds: that kernels worked, together; None on a CPU.
    """

    kernels: int
    graphs: int
    operators: int
    device_seconds: float | None


def launches(call: Callable[[], object]) -> Launches:
    """Profile one call."""
    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        call()
        if on_gpu:
            torch.cuda.synchronize()
    counts: Mapping[str, int] = Counter()
    busy = 0.0
    for event in profiler.key_averages():
        counts[event.key] += event.count  # type: ignore[index]
        busy += 1e-6 * event.self_device_time_total

    def named(*begins: str) -> int:
        return sum(number for key, number in counts.items() if key.startswith(begins))

    return Launches(
        kernels=named("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchCooperativeKernel"),
        graphs=named("cudaGraphLaunch", "cuGraphLaunch"),
        operators=named("aten::"),
        device_seconds=busy if on_gpu else None,
    )
