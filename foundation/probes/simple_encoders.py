"""Baselines in the form of encoders: the raw view, and simple features of a modality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from foundation.types import Features

RAW_NUMBERS = 3 * 64 * 64
"""Most numbers per sample that the raw baseline keeps; larger views are averaged down to fit."""


class RawEncoder(nn.Module):
    """The baseline that learns nothing: the numbers of the evaluation view themselves.

    Views with more than ``RAW_NUMBERS`` numbers are averaged over equal cells first; a side keeps its length
    otherwise.
    """

    depth = 1

    def __init__(self, numbers: int = RAW_NUMBERS) -> None:
        super().__init__()
        self.numbers = numbers

    def forward(self, views: list[Tensor], masks: object = None, taps: Sequence[str] = ()) -> list[Features]:
        """Flattened views as class tokens, no patch tokens; arguments as for any encoder."""
        return [self._one(view) for view in views]

    def _one(self, view: Tensor) -> Features:
        view = view.float()
        dims = view.ndim - 2
        if view[0].numel() > self.numbers and dims in (1, 2, 3):
            scale = (self.numbers / view[0].numel()) ** (1 / dims)
            size = [max(1, int(side * scale)) for side in view.shape[2:]]
            pools: dict[int, Any] = {
                1: nn.functional.adaptive_avg_pool1d,
                2: nn.functional.adaptive_avg_pool2d,
                3: nn.functional.adaptive_avg_pool3d,
            }
            view = pools[dims](view, size)
        flat = view.flatten(1)
        return Features(cls=flat, registers=flat.new_zeros(len(flat), 0, 0), patches=flat.new_zeros(len(flat), 0, 0))


class SimpleEncoder(nn.Module):
    """A baseline that a person wrote: a function of the evaluation view.

    Args:
        function: from views [B, ...] to features [B, D].
    """

    depth = 1

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, views: list[Tensor], masks: object = None, taps: Sequence[str] = ()) -> list[Features]:
        """Features as class tokens, no patch tokens; arguments as for any encoder."""
        found = [self.function(view) for view in views]
        return [Features(cls=x, registers=x.new_zeros(len(x), 0, 0), patches=x.new_zeros(len(x), 0, 0)) for x in found]
