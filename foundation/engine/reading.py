"""Values of the device that the host reads later, when they are there, without waiting for what was queued since."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Reading:
    """Scalars on their way to the host.

    Their values now are copied, on a GPU into page-locked memory behind the work that makes them. :meth:`get` waits for
    that work alone: asked after the next step has been queued, it finds it done, and the device is never idle.

    Args:
        values: by name; tensors are scalars on any device.
    """

    def __init__(self, values: Mapping[str, Tensor | float]) -> None:
        self._values: dict[str, float] = {}
        self._order = tuple(values)
        self._copies: list[tuple[list[str], Tensor, torch.cuda.Event | None]] = []
        devices: dict[torch.device, dict[str, Tensor]] = {}
        for name, value in values.items():
            if isinstance(value, Tensor):
                devices.setdefault(value.device, {})[name] = value
            else:
                self._values[name] = float(value)
        for device, tensors in devices.items():
            packed = torch.stack([value.detach().reshape(()).to(torch.float64) for value in tensors.values()])
            event = None
            if device.type == "cuda":
                host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
                packed = host.copy_(packed, non_blocking=True)
                event = torch.cuda.Event()
                event.record(torch.cuda.current_stream(device))
            self._copies.append(([*tensors], packed, event))

    def get(self) -> dict[str, float]:
        """The values by name, in the order given."""
        while self._copies:
            names, host, event = self._copies.pop()
            if event is not None:
                event.synchronize()
            self._values |= dict(zip(names, host.tolist(), strict=True))
        return {name: self._values[name] for name in self._order}
