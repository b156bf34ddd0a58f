"""Several encoders side by side, one for each kind of input: the views of a batch find their own by their shape.

Two-branch systems train as one student, and one teacher averages all towers: DISCOVR's video and image branches, or
one tower for each sensor of a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foundation.encoders.trunk import choose
from foundation.errors import UserError
from foundation.plugins import Plugin
from foundation.types import Features


@dataclass(frozen=True, kw_only=True)
class Config:
    """Encoders by name, all of one width."""

    towers: dict[str, Annotated[Any, Plugin("foundation.encoders.{name}")]]
    """By a name of your own. Views go to the tower whose ``size`` has as many axes as the view: (frames, height, width)
    for clips, (height, width) for images, (samples,) for signals."""
    main: str
    """Tower that probes and reports ask; every tower is exported."""

    def __post_init__(self) -> None:
        if self.main not in self.towers:
            raise UserError(f"encoder.main is {self.main!r}; the towers are: {', '.join(self.towers) or 'none'}")
        axes: dict[int, str] = {}
        for name, tower in self.towers.items():
            if tower.size is None:
                raise UserError(f"encoder.towers.{name}.size is null: set it, views find their tower by its axes")
            count = len(tower.size)
            if count in axes:
                raise UserError(f"encoder.towers: {axes[count]} and {name} both take views of {count} axes; keep one")
            axes[count] = name
        widths = {name: tower.shape.width for name, tower in self.towers.items() if hasattr(tower, "shape")}
        if len(set(widths.values())) > 1:
            raise UserError(_widths(widths))

    @property
    def size(self) -> tuple[int, ...]:
        """Input size of the main tower."""
        return tuple(self.towers[self.main].size)

    @property
    def modality(self) -> str:
        """Of the main tower."""
        return str(self.towers[self.main].modality)

    @property
    def registers(self) -> int:
        """Register tokens of the main tower."""
        return int(getattr(self.towers[self.main], "registers", 0))

    @property
    def places(self) -> Callable[[Tensor], Tensor] | None:
        """As of the main tower, see :mod:`foundation.encoders.vit`."""
        return getattr(self.towers[self.main], "places", None)

    def tower_of(self, axes: int) -> str:
        """Name of the tower for views of so many axes.

        Raises:
            UserError: there is none.
        """
        for name, tower in self.towers.items():
            if len(tower.size) == axes:
                return name
        there = ", ".join(f"{name} ({len(tower.size)})" for name, tower in self.towers.items())
        raise UserError(f"no tower takes views of {axes} axes; there are: {there}")

    def coordinates(self, size: tuple[int, ...]) -> NDArray[np.int64]:
        """Place of each token of an input of that size, [N, d], as its tower has it."""
        return self.towers[self.tower_of(len(size))].coordinates(size)

    def build(self) -> Towers:
        """Make all towers, initialised."""
        return Towers(self)


def _widths(widths: Mapping[str, int]) -> str:
    listed = ", ".join(f"{name} {width}" for name, width in widths.items())
    return f"encoder.towers must have one width, as they share the heads: {listed}"


class Towers(nn.Module):
    """See :class:`Config`.

    Attributes:
        towers: the encoders by name.
        width: of every tower's tokens.
        depth: blocks of the deepest tower.
    """

    supports_masks = True
    supports_wanted = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.towers = nn.ModuleDict({name: tower.build() for name, tower in config.towers.items()})
        self.supports_drop = all(getattr(tower, "supports_drop", False) for tower in self.towers.values())
        self.width = int(self.main.width)
        others = {name: int(tower.width) for name, tower in self.towers.items()}  # type: ignore[arg-type]
        if set(others.values()) != {self.width}:  # of adapters, whose width only the model knows
            raise UserError(_widths(others))
        self.depth = max(int(tower.depth) for tower in self.towers.values())  # type: ignore[arg-type]

    @property
    def main(self) -> Any:
        """The tower that probes and reports ask."""
        return self.towers[self.config.main]

    @property
    def modality(self) -> str:
        """Of the main tower."""
        return self.config.modality

    @property
    def tokenizer(self) -> Any:
        """Of the main tower."""
        return self.main.tokenizer

    @property
    def trunk(self) -> Any:
        """Of the main tower."""
        return self.main.trunk

    @property
    def prefix(self) -> int:
        """Class and register tokens of the main tower."""
        return int(self.main.prefix)

    @property
    def flops_per_token(self) -> int:
        """Of the main tower."""
        return int(self.main.flops_per_token)

    def forward(
        self,
        views: Sequence[Tensor],
        masks: Sequence[Tensor | None] | None = None,
        taps: Sequence[str] = (),
        *,
        generator: torch.Generator | None = None,
        wanted: Sequence[Tensor | None] | None = None,
        drop: Sequence[int | None] | None = None,
    ) -> list[Features]:
        """Encode each view by its tower, the views of one tower in one pass; arguments and results as of a single one.

        Raises:
            UserError: a view for which there is no tower.
        """
        owners = [self.config.tower_of(view.ndim - 2) for view in views]
        results: dict[int, Features] = {}
        for name in dict.fromkeys(owners):
            own = [number for number, owner in enumerate(owners) if owner == name]
            tower: Any = self.towers[name]
            options = {"drop": drop, "wanted": wanted if getattr(tower, "supports_wanted", False) else None}
            some = {key: [values[number] for number in own] for key, values in options.items() if values is not None}
            features = tower(
                [views[number] for number in own],
                None if masks is None else [masks[number] for number in own],
                taps,
                generator=generator,
                **some,
            )
            if wanted is not None and "wanted" not in some:  # a tower that gives all patches
                chosen = [wanted[number] for number in own]
                features = [replace(f, patches=choose(f.patches, c)) for f, c in zip(features, chosen, strict=True)]
            results |= dict(zip(own, features, strict=True))
        return [results[number] for number in range(len(views))]

    def tap_names(self) -> list[str]:
        """What can be tapped in the main tower."""
        return list(self.main.tap_names())

    def check_taps(self, taps: Sequence[str]) -> None:
        """As the main tower's."""
        self.main.check_taps(taps)

    def layer_of(self, name: str) -> int:
        """Layer of a parameter, counted so that the last blocks of all towers are level."""
        _, tower, rest = name.split(".", 2)
        encoder: Any = self.towers[tower]
        return int(encoder.layer_of(rest)) + self.depth - int(encoder.depth)

    def uses_all_parameters(self, masked: bool) -> bool:
        """A recipe may leave a tower's patches or mask token unused."""
        return False

    def flops(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Floating point operations of a forward pass over views of these shapes (rows, channels, ...)."""
        owners: list[Any] = [self.towers[self.config.tower_of(len(shape) - 2)] for shape in shapes]
        return sum(int(owner.flops([shape])) for owner, shape in zip(owners, shapes, strict=True))
