"""Views that a loader's worker makes whole: so few numbers that there is nothing to gain from an accelerator.

What such modalities share: the batch between worker and training, and the naming of its views.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from foundation.counter import Draws
from foundation.types import View


class Crop(Protocol):
    """Views of one role."""

    @property
    def count(self) -> int:
        """Views per sample."""

    @property
    def size(self) -> int:
        """Length of a view: points, time steps."""


class RoleConfig(Protocol):
    """What :class:`ReadyViews` reads of a modality's views ``Config``."""

    @property
    def global_views(self) -> Crop:
        """Large views."""

    @property
    def local_views(self) -> Crop:
        """Small views."""


@dataclass(frozen=True)
class PreparedRole:
    """One role of a batch: data [R, channels, size] float32, sample_ids [R] int64, geometry [R, ...] float32."""

    data: Tensor
    sample_ids: Tensor
    geometry: Tensor


@dataclass(frozen=True)
class Prepared:
    """A batch as a worker hands it over.

    Attributes:
        roles: by name; each a dataclass of tensors.
    """

    roles: Mapping[str, Any]

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Prepared:
        return self._each(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Prepared:
        return self._each(lambda value: value.pin_memory())

    def _each(self, function: Callable[[Tensor], Tensor]) -> Prepared:
        return Prepared(
            {
                name: replace(role, **{item.name: function(getattr(role, item.name)) for item in fields(role)})
                for name, role in self.roles.items()
            }
        )


def joined(parts: Sequence[Tensor], count: int) -> Tensor:
    """Rows of the parts of a batch as rows of the whole: view-major, as each part is.

    Args:
        parts: [count x B_i, ...] each, or [count x B_i x n, ...] where n rows make a view.
        count: views per sample.
    """
    from einops import rearrange

    views = [rearrange(part, "(v r) ... -> v r ...", v=count) for part in parts]
    return rearrange(torch.cat(views, dim=1), "v r ... -> (v r) ...")


class ReadyViews:
    """Views of the roles ``global`` and ``local``, made by ``prepare`` of a subclass.

    Args:
        config: the modality's views ``Config``.
        channels: of a view.

    Attributes:
        modality: folder name in ``foundation/modalities``.
        roles: views by role; roles without views are left out.
        on_device: False: all work is done in ``prepare``.
    """

    modality: ClassVar[str]
    on_device = False

    def __init__(self, config: RoleConfig, channels: int) -> None:
        self.channels = channels
        both = (("global", config.global_views), ("local", config.local_views))
        self.roles: Mapping[str, Any] = MappingProxyType({name: crop for name, crop in both if crop.count})

    def describe(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Per role: views per sample, and the shape of one view's data, ``(channels, size)``."""
        return {name: (crop.count, (self.channels, crop.size)) for name, crop in self.roles.items()}

    def join(self, parts: Sequence[Prepared], draws: Draws) -> Prepared:
        """What ``prepare`` gives for all samples, from what it gave for some at a time; ``draws`` are of them all."""
        roles = {}
        for name, crop in self.roles.items():
            some = [part.roles[name] for part in parts]
            values = {
                item.name: joined([getattr(role, item.name) for role in some], crop.count) for item in fields(some[0])
            }
            roles[name] = replace(some[0], **values)
        return Prepared(roles)

    def finish(self, prepared: Prepared) -> dict[str, View]:
        """Names the views.

        Returns:
            Per role a View with data [R, channels, size] float32, rows view-major, and its geometry.
        """

        return {
            name: View(role.data, self.modality, name, self.roles[name].count, role.sample_ids, role.geometry)
            for name, role in prepared.roles.items()
        }
