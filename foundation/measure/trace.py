"""A profile of a call as a Chrome trace that is small enough to be kept."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from foundation.files import replace_file


@dataclass(frozen=True)
class Trace:
    """What was written.

    Attributes:
        bytes: of the file.
        kinds: of events in it.
        heaviest: name, seconds and calls of what took most of the device's time (of the processor's on a CPU).
    """

    bytes: int
    kinds: str
    heaviest: tuple[tuple[str, float, int], ...]


def write_trace(call: Callable[[], object], path: Path, device: torch.device, most_bytes: int) -> Trace:
    """Profile one call and write its trace, compressed.

    Args:
        call: warmed up before.
        path: of the file, ``*.json.gz``.
        device: where the call works.
        most_bytes: of the file. A trace with the operators of the host that is larger is made again with the kernels
            of the device alone.

    Raises:
        ValueError: the smallest trace is larger still.
    """
    host, kernels = ProfilerActivity.CPU, ProfilerActivity.CUDA
    kinds = {"operators": [host]} if device.type != "cuda" else {"operators and kernels": [host, kernels]}
    if device.type == "cuda":
        kinds["kernels"] = [kernels]
    content = b""
    for name, activities in kinds.items():
        with profile(activities=activities) as profiler:
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        content = _compressed(profiler)
        if len(content) <= most_bytes:
            replace_file(path, content)
            return Trace(len(content), name, _heaviest(profiler, device.type == "cuda"))
    raise ValueError(f"the trace has {len(content)} bytes compressed, more than {most_bytes}")


def _compressed(profiler: profile) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(plain))
        return gzip.compress(plain.read_bytes(), mtime=0)


def _heaviest(profiler: profile, on_gpu: bool, number: int = 15) -> tuple[tuple[str, float, int], ...]:
    times = [
        (event.key[:120], 1e-6 * (event.self_device_time_total if on_gpu else event.self_cpu_time_total), event.count)
        for event in profiler.key_averages()
        if not on_gpu or event.device_type != torch.autograd.DeviceType.CPU
    ]
    return tuple(sorted(times, key=lambda one: -one[1])[:number])
