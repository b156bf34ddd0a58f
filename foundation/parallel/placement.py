"""Where and in which precision a run computes."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch


@dataclass(frozen=True)
class Placement:
    """Where and in which precision the run computes.

    Attributes:
        device: of parameters and batches.
        autocast: dtype of the forward pass, or None for float32 throughout.
    """

    device: torch.device
    autocast: torch.dtype | None

    def plain(self) -> dict[str, str]:
        """``device``, ``processor`` (its model) and ``precision``, for checkpoints and cards."""
        precision = "float32" if self.autocast is None else str(self.autocast).removeprefix("torch.")
        return {"device": self.device.type, "processor": processor(self.device), "precision": precision}


def words(computed: Mapping[str, str]) -> str:
    """A :meth:`Placement.plain` for a person."""
    return f"{computed.get('precision')} on {computed.get('device')} ({computed.get('processor')})"


@cache
def processor(device: torch.device | None = None) -> str:
    """Model of a processor, as its maker calls it; None: of the machine's own."""
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
