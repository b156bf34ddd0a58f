"""Staging: one copy of the training state in main memory, so that training can go on while it is written."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

_ALIGNMENT = 64

Groups = Mapping[str, Mapping[str, Tensor]]


class Staging:
    """Host buffers that are allocated once and used for every checkpoint; page-locked where tensors lie on a GPU.

    Pages are touched when they are allocated, so that no later copy pays for it.
    """

    def __init__(self) -> None:
        self._views: dict[str, dict[str, Tensor]] = {}
        self._blocks: list[np.ndarray] = []
        self._registered: list[int] = []

    def prepare(self, groups: Groups) -> None:
        """Make room for tensors of these shapes and dtypes; does nothing when there is room already."""
        if _layout(groups) == _layout(self._views):
            return
        self.release()
        locked = any(t.is_cuda for group in groups.values() for t in group.values())
        for name, group in groups.items():
            places, total = {}, 0
            for key, tensor in group.items():
                size = tensor.numel() * tensor.element_size()
                places[key] = (total, total + size)
                total += -(-size // _ALIGNMENT) * _ALIGNMENT
            block = np.zeros(total, np.uint8)
            block[::4096] = 0  # np.zeros hands out pages that do not exist yet
            self._blocks.append(block)
            if locked and total:
                self._lock(block)
            # Each view is a storage of its own: safetensors refuses tensors that share one.
            self._views[name] = {
                # An empty block has no stride, which a view as another type needs.
                key: torch.from_numpy(block[slice(*places[key])]).view(t.dtype).view(t.shape)
                if t.numel()
                else torch.empty(t.shape, dtype=t.dtype)
                for key, t in group.items()
            }

    def take(self, groups: Groups) -> dict[str, dict[str, Tensor]]:
        """Copy all tensors. The result is valid until the next call; the given tensors may change at once."""
        self.prepare(groups)
        pairs = [(self._views[n][key], t.detach()) for n, group in groups.items() for key, t in group.items()]
        if pairs:
            targets, sources = map(list, zip(*pairs, strict=True))
            torch._foreach_copy_(targets, sources, non_blocking=True)
            for device in {t.device for t in sources if t.is_cuda}:
                torch.cuda.current_stream(device).synchronize()
        return self._views

    def release(self) -> None:
        """Give the memory back."""
        for address in self._registered:
            torch.cuda.cudart().cudaHostUnregister(address)  # type: ignore[no-untyped-call]
        self._registered.clear()
        self._views, self._blocks = {}, []

    def _lock(self, block: np.ndarray) -> None:
        # Registering takes exactly these pages; torch's own pinned memory is rounded up to a power of two.
        address = block.ctypes.data
        if int(torch.cuda.cudart().cudaHostRegister(address, block.nbytes, 0)) == 0:  # type: ignore[no-untyped-call]
            self._registered.append(address)


def _layout(groups: Groups) -> dict[str, dict[str, tuple[torch.dtype, torch.Size]]]:
    return {name: {key: (t.dtype, t.shape) for key, t in group.items()} for name, group in groups.items()}
