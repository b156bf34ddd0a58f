"""Memory that torch allocates, followed by its profiler."""

from __future__ import annotations

from collections.abc import Callable


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
