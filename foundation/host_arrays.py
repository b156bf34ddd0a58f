"""Numbers that the host computes in a step and the device needs: handed over without a wait."""

from __future__ import annotations

import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(array: NDArray, device: torch.device) -> Tensor:
    """An array as a tensor of a device. To a GPU it goes by page-locked memory, so that the host does not wait for what
    the device is at."""
    tensor = torch.from_numpy(array)
    return tensor if device.type != "cuda" else tensor.pin_memory().to(device, non_blocking=True)
