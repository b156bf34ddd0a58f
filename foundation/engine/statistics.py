"""Running statistics of BatchNorm, which a forward pass moves: a step that is refused must not have moved them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningStatistics:
    """What the BatchNorm layers of a module have gathered, as it was before a step.

    Copies are made and put back on the device, without a wait; a module without such layers costs nothing.

    Args:
        module: that is trained, of any class and library.
    """

    def __init__(self, module: nn.Module) -> None:
        self._now: list[Tensor] = [
            buffer
            for part in module.modules()
            if isinstance(part, nn.modules.batchnorm._BatchNorm)
            for buffer in part.buffers(recurse=False)
        ]
        self._before: list[Tensor] = []

    @torch.no_grad()
    def keep(self) -> None:
        """Remember them, before the first forward pass of a step."""
        if not self._before:
            self._before = [buffer.clone() for buffer in self._now]
        elif self._now:
            torch._foreach_copy_(self._before, self._now)

    @torch.no_grad()
    def put_back(self, refused: Tensor) -> None:
        """Make them what they were, where ``refused`` [] float32 on the device is 1."""
        for now, before in zip(self._now, self._before, strict=True):
            now.copy_(torch.where(refused != 0, before, now))
