"""What a machine is, and the two rates that bound every step: matrix products and memory."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch
from torch.utils.flop_counter import mm_flop

from foundation.compatibility import installed
from foundation.encoders.packed_attention import PACKED, unavailable
from foundation.measure.timing import measure
from foundation.parallel.placement import processor
from foundation.parallel.threads import processors

PACKAGES = ("torch", "torchvision", "triton", "xformers", "flash_attn", "timm", "numpy", "webdataset", "simplejpeg")
PUBLISHED = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}
"""Dense bfloat16 operations per second that the makers publish for the SXM models, by a word of the device's name."""


def device_of_machine() -> torch.device:
    """The GPU, or the CPU where there is none."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def describe() -> dict[str, Any]:
    """Processor, GPU, driver and versions, in plain values."""
    facts: dict[str, Any] = {
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "processor": processor(),
        "cores": processors(),
        "main_memory_gib": _main_memory(),
        "versions": {name: installed(name) or "absent" for name in PACKAGES},
        "gpu": None,
    }
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        facts |= {
            "gpu": found.name,
            "gpus": torch.cuda.device_count(),
            "gpu_memory_gib": round(found.total_memory / 2**30, 1),
            "gpu_multiprocessors": found.multi_processor_count,
            "compute_capability": f"{found.major}.{found.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": driver(),
        }
    return facts


def driver() -> str | None:
    """Version of the GPU's driver; None where the system does not tell."""
    try:
        with open("/proc/driver/nvidia/version") as file:
            words = file.readline().split()
    except OSError:
        return None
    return next((word for word in words if word[:1].isdigit() and "." in word), None)


def attention_backends(device: torch.device) -> dict[str, str]:
    """What can be said against each backend for several lengths, by name; empty where it can be used."""
    return {name: unavailable(name, device) for name in PACKED}


def published_rate(gpu: str | None) -> float | None:
    """Dense bfloat16 operations per second that the maker publishes for a GPU; None for one that is not listed."""
    name = gpu or ""
    if any(slower in name for slower in ("PCIe", "NVL", "MIG")):
        return None
    return next((rate for word, rate in PUBLISHED.items() if word in name), None)


def matrix_rate(
    device: torch.device, dtype: torch.dtype = torch.bfloat16, size: int = 8192, precision: str = "highest"
) -> float:
    """Floating point operations per second of a square matrix product on random numbers.

    Args:
        device: where.
        dtype: of the factors.
        size: side of the matrices.
        precision: of float32 products, as ``torch.set_float32_matmul_precision`` has it; ``high`` is TF32.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(left)
        speed = measure(lambda: torch.mm(left, right, out=out), device, rounds=10)
    finally:
        torch.set_float32_matmul_precision(before)
    return float(mm_flop(left.shape, right.shape)) / speed.seconds


def memory_rate(device: torch.device, size: int = 2**32) -> float:
    """Bytes per second of a copy within the device's memory, those read and those written together.

    Args:
        device: where.
        size: bytes of the copy.
    """
    source = torch.empty(size, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    return 2 * size / measure(lambda: target.copy_(source), device, rounds=10).seconds


def _main_memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None
