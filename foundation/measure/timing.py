"""Seconds and memory of a call on a device."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch


@dataclass(frozen=True)
class Speed:
    """How long calls took, and what they held.

    Attributes:
        seconds: median of one call.
        fastest: of all timed calls.
        slowest: likewise.
        peak_bytes: most that torch held on the device at any moment of them; None on a CPU.
    """

    seconds: float
    fastest: float
    slowest: float
    peak_bytes: int | None


def measure(call: Callable[[], object], device: torch.device, rounds: int = 5, warm_up: int = 3) -> Speed:
    """Time calls one behind the other, without a wait between them.

    On a GPU the moments are events of its stream, so that work for the host that hides behind kernels costs nothing,
    and work that does not is counted.

    Args:
        call: what to time.
        device: where it works.
        rounds: timed calls.
        warm_up: calls before: they allocate, compile and choose kernels.
    """
    for _ in range(warm_up):
        call()
    if device.type != "cuda":
        taken = [_timed(call) for _ in range(rounds)]
        return Speed(statistics.median(taken), min(taken), max(taken), None)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize(device)
    taken = [1e-3 * start.elapsed_time(end) for start, end in pairwise(events)]
    return Speed(statistics.median(taken), min(taken), max(taken), torch.cuda.max_memory_allocated(device))


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def growing(
    first: int, most: int, attempt: Callable[[int], Speed], forget: Callable[[], None]
) -> Iterator[tuple[int, Speed | None]]:
    """Double a batch size until it no longer fits.

    Args:
        first: batch size to begin with.
        most: where to stop in any case.
        attempt: times a step at a batch size.
        forget: lets go of what an attempt without success has left behind.

    Yields:
        Batch sizes with their speeds; None for the one that did not fit, which is the last.
    """
    size = first
    while size <= most:
        speed = _unless_full(partial(attempt, size))
        if speed is None:
            forget()
            free()
        yield size, speed
        if speed is None:
            return
        size *= 2


def _unless_full(call: Callable[[], Speed]) -> Speed | None:
    """None where the memory of the device does not suffice; the error and the tensors of its frames are gone then."""
    try:
        return call()
    except (
        RuntimeError
    ) as error:  # torch.OutOfMemoryError is one, and libraries that allocate by themselves raise others
        if not any(sign in str(error) for sign in ("out of memory", "ALLOC_FAILED")):
            raise
        return None


def free() -> None:
    """Give what nobody holds back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
