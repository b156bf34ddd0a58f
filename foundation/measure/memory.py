"""Memory of this process, and what torch allocates, followed by its profiler."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path


def peak_of_process() -> int:
    """Most bytes of main memory that this program had at once.

    Where Linux tells it, of the program alone: ``getrusage`` counts what its parent had before this one was loaded.
    """
    try:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def allocated(work: Callable[[], None]) -> int:
    """Most bytes that lived at once among all that torch allocates on the CPU while this works."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()  # negative where it is freed
        most = max(most, live)
    return most
