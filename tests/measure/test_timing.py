"""Times, batches that no longer fit, waits and traces, as far as a CPU can show them."""

from __future__ import annotations

import gzip
import json
import warnings

import pytest
import torch

from foundation.measure.timing import Speed, growing, measure
from foundation.measure.trace import write_trace
from foundation.measure.waits import Waits, host_waits, launches, place

CPU = torch.device("cpu")


def test_every_call_is_made_and_those_of_the_warm_up_do_not_count():
    calls = []
    speed = measure(lambda: calls.append(None), CPU, rounds=4, warm_up=2)
    assert len(calls) == 6 and speed.peak_bytes is None
    assert 0 < speed.fastest <= speed.seconds <= speed.slowest


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), RuntimeError("X_ALLOC_FAILED")])
def test_batches_grow_until_one_does_not_fit(error):
    asked, forgotten = [], []

    def attempt(size: int) -> Speed:
        asked.append(size)
        if size > 16:
            raise error
        return Speed(1.0, 1.0, 1.0, size)

    found = list(growing(4, 1000, attempt, lambda: forgotten.append(None)))
    assert [size for size, _ in found] == asked == [4, 8, 16, 32]
    assert [speed is None for _, speed in found] == [False, False, False, True] and len(forgotten) == 1


def test_growing_ends_at_the_most_and_other_errors_are_raised():
    assert [size for size, _ in growing(4, 10, lambda size: Speed(1.0, 1.0, 1.0, None), lambda: None)] == [4, 8]

    def broken(size: int) -> Speed:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(growing(4, 10, broken, lambda: None))


def test_waits_are_told_by_their_place():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
    assert place(caught[0]).startswith("measure/test_timing.py:")
    waits = Waits()
    waits.places.update([place(caught[0])] * 3)
    assert waits.count == 3
    with host_waits() as none:
        torch.ones(3).sum().item()
    assert none.count == 0, "a CPU waits for no device"


def test_operators_of_a_call_are_counted():
    found = launches(lambda: torch.ones(3) + torch.ones(3))
    assert found.operators >= 3 and found.kernels == found.graphs == 0


def test_a_trace_is_written_whole_or_refused(tmp_path):
    path = tmp_path / "trace.json.gz"
    trace = write_trace(lambda: torch.randn(64, 64) @ torch.randn(64, 64), path, CPU, 10**6)
    content = json.loads(gzip.decompress(path.read_bytes()))
    assert trace.bytes == path.stat().st_size
    assert any("aten::mm" in str(event.get("name")) for event in content["traceEvents"])
    assert any(name == "aten::mm" for name, _, _ in trace.heaviest)
    with pytest.raises(ValueError, match="more than 10"):
        write_trace(lambda: torch.ones(3), tmp_path / "other.json.gz", CPU, 10)
    assert not (tmp_path / "other.json.gz").exists()
