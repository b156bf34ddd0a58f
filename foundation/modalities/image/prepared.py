"""A batch of images between the two halves of making views."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foundation.modalities.image.plan import Plan


@dataclass(frozen=True)
class PreparedRole:
    """One role of a batch between the two halves.

    Attributes:
        pixels: uint8 [R, 3, S, S] when the geometric half is done, else None.
        boxes: [R, 4] top, left, height, width in the source image (in the canvas, where there is one).
        flips: bool [R].
        plan: the photometric steps.
        sample_ids: int64 [R].
        geometry: float32 [R, 2, 3].
        turns: float32 [R, 2, 3] where views are turned: from view coordinates to coordinates in [0, 1]^2 of the box,
            the flip included; None where they are not, or the geometric half is done.
    """

    pixels: Tensor | None
    boxes: Tensor
    flips: Tensor
    plan: Plan
    sample_ids: Tensor
    geometry: Tensor
    turns: Tensor | None = None


@dataclass(frozen=True)
class Prepared:
    """A batch between the two halves: what a worker hands over.

    Attributes:
        roles: by name.
        canvas: uint8 [B, 3, H, W], the decoded images, where the geometric half is still to be done.
    """

    roles: Mapping[str, PreparedRole]
    canvas: Tensor | None

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Prepared:
        return self._each(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Prepared:
        return self._each(lambda value: value.pin_memory())

    def _each(self, function: Callable[[Any], Any]) -> Prepared:
        roles = {
            name: PreparedRole(
                pixels=None if role.pixels is None else function(role.pixels),
                boxes=function(role.boxes),
                flips=function(role.flips),
                plan=function(role.plan),
                sample_ids=function(role.sample_ids),
                geometry=function(role.geometry),
                turns=None if role.turns is None else function(role.turns),
            )
            for name, role in self.roles.items()
        }
        return Prepared(roles, None if self.canvas is None else function(self.canvas))
