"""Several encoders side by side, one for each modality: each view of a batch goes to its own.

Two-branch systems train as one student, and one teacher averages all towers: DISCOVR's video and image branches, or
one tower for each sensor of a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foundation.encoders.protocol import Capabilities, Encoder, EncoderConfig, EncoderModule, Inputs, inputs_of
from foundation.errors import UserError
from foundation.plugins import Plugin
from foundation.types import Features


@dataclass(frozen=True, kw_only=True)
class Config(EncoderConfig):
    """Encoders by name, all of one width."""

    towers: dict[str, Annotated[Any, Plugin("foundation.encoders.{name}")]]
    """By a name of your own. A view goes to the tower of its modality: clips to that of ``video``, frames to that of
    ``image``."""
    main: str
    """Tower that probes and reports ask; every tower is exported."""

    def __post_init__(self) -> None:
        if self.main not in self.towers:
            raise UserError(f"encoder.main is {self.main!r}; the towers are: {', '.join(self.towers) or 'none'}")
        owners: dict[str, str] = {}
        for name, tower in self.towers.items():
            if tower.size is None:
                raise UserError(f"encoder.towers.{name}.size is null: set it")
            if tower.modality in owners:
                both = f"{owners[tower.modality]} and {name}"
                raise UserError(f"encoder.towers: {both} both take views of {tower.modality}; keep one")
            owners[tower.modality] = name
        widths = {name: tower.known_width for name, tower in self.towers.items() if tower.known_width is not None}
        if len(set(widths.values())) > 1:
            raise UserError(_widths(widths))

    @property
    def size(self) -> tuple[int, ...]:  # type: ignore[override]
        """Input size of the main tower."""
        return tuple(self.towers[self.main].size)

    @property
    def modality(self) -> str:
        """Of the main tower."""
        return str(self.towers[self.main].modality)

    @property
    def registers(self) -> int:  # type: ignore[override]
        """Register tokens of the main tower."""
        return int(self.towers[self.main].registers)

    @property
    def coordinates_of(self) -> Callable[[Tensor], Tensor] | None:
        """As of the main tower, see :mod:`foundation.encoders.vit`."""
        coordinates_of: Callable[[Tensor], Tensor] | None = self.towers[self.main].coordinates_of
        return coordinates_of

    def tower_of(self, axes: int, modality: str | None = None) -> str:
        """Name of the tower for views of a modality.

        Args:
            axes: of a view, such as 2 for images.
            modality: None: not known; the main tower where it has as many axes, else the first one that has.

        Raises:
            UserError: there is none.
        """
        if modality is not None:
            for name, tower in self.towers.items():
                if tower.modality == modality:
                    return name
            there = ", ".join(f"{name} ({tower.modality})" for name, tower in self.towers.items())
            raise UserError(f"no tower takes views of {modality}; there are: {there}")
        for name in (self.main, *self.towers):
            if len(self.towers[name].size) == axes:
                return name
        there = ", ".join(f"{name} ({len(tower.size)})" for name, tower in self.towers.items())
        raise UserError(f"no tower takes views of {axes} axes; there are: {there}")

    def for_modality(self, modality: str) -> Any:
        """Config of the tower that takes views of a modality.

        Raises:
            UserError: there is none.
        """
        return self.towers[self.tower_of(0, modality)]

    def coordinates(self, size: tuple[int, ...]) -> NDArray[np.int64]:
        """Place of each token of an input of that size, [N, d], as its tower has it."""
        return self.towers[self.tower_of(len(size))].coordinates(size)

    def build(self) -> Towers:
        """Make all towers, initialised."""
        return Towers(self)


def _widths(widths: Mapping[str, int]) -> str:
    listed = ", ".join(f"{name} {width}" for name, width in widths.items())
    return f"encoder.towers must have one width, as they share the heads: {listed}"


class Towers(EncoderModule):
    """See :class:`Config`.

    Attributes:
        towers: the encoders by name.
        width: of every tower's tokens.
        depth: blocks of the deepest tower.
        prefix: class and register tokens of the main tower.
        modality: of the main tower.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.towers = nn.ModuleDict({name: tower.build() for name, tower in config.towers.items()})
        self.width = int(self.main.width)
        others = {name: int(tower.width) for name, tower in self.towers.items()}  # type: ignore[arg-type]
        if set(others.values()) != {self.width}:  # of adapters, whose width only the model knows
            raise UserError(_widths(others))
        self.depth = max(int(tower.depth) for tower in self.towers.values())  # type: ignore[arg-type]
        self.prefix, self.modality = int(self.main.prefix), config.modality

    @property
    def capabilities(self) -> Capabilities:
        """Every tower hides the tokens of its own views; the rest is what all can do."""
        all_of_them = [tower.capabilities for tower in self.encoders.values()]
        return Capabilities(
            hides=any(one.hides for one in all_of_them),
            drops=all(one.drops for one in all_of_them),
            overwrites=all(one.overwrites for one in all_of_them),
            cell_shape=self.encoders[self.config.main].capabilities.cell_shape,
            ragged=all(one.ragged for one in all_of_them),
            towers=tuple(self.towers),
            cannot_hide=next((one.cannot_hide for one in all_of_them if not one.hides), ""),
        )

    @property
    def encoders(self) -> dict[str, Encoder]:
        """The towers by name."""
        return {name: cast(Encoder, tower) for name, tower in self.towers.items()}

    def tower_of(self, view: Tensor) -> Encoder:
        """The tower for a view [R, channels, ...].

        Raises:
            UserError: there is none.
        """
        return self.encoders[self.config.tower_of(view.ndim - 2)]

    @property
    def main(self) -> Any:
        """The tower that probes and reports ask."""
        return self.towers[self.config.main]

    @property
    def tokenizer(self) -> Any:
        """Of the main tower."""
        return self.main.tokenizer

    @property
    def trunk(self) -> Any:
        """Of the main tower."""
        return self.main.trunk

    def forward(
        self, inputs: Inputs, taps: Sequence[str] = (), *, generator: torch.Generator | None = None
    ) -> list[Features]:
        """Encode each view by its tower, the views of one tower in one pass; arguments and results as of a single one.

        Raises:
            UserError: a view for which there is no tower.
        """
        self.check_taps(taps)
        given = inputs_of(inputs)
        owners = [self.config.tower_of(one.view.ndim - 2, one.modality) for one in given]
        results: dict[int, Features] = {}
        for name in dict.fromkeys(owners):
            own = [number for number, owner in enumerate(owners) if owner == name]
            tower = self.encoders[name]
            there = tower.tap_names()  # one tower may be deeper than another
            some = [given[number] for number in own]
            features = tower(some, [tap for tap in taps if tap in there], generator=generator)
            results |= dict(zip(own, features, strict=True))
        return [results[number] for number in range(len(given))]

    def tap_names(self) -> list[str]:
        """What can be tapped in some tower; a view has those of its own."""
        return list(dict.fromkeys(tap for tower in self.encoders.values() for tap in tower.tap_names()))

    def cells(self, view: Tensor) -> Tensor:
        """Numbers that each token of a view covers, [R, N, *cell_shape], as its tower says."""
        return self.tower_of(view).cells(view)

    def spread(self, hidden: Tensor, view: Tensor) -> Tensor:
        """Which numbers of a view lie in tokens [R, N] bool, as its tower says."""
        return self.tower_of(view).spread(hidden, view)

    def layer_of(self, name: str) -> int:
        """Layer of a parameter, counted so that the last blocks of all towers are level."""
        _, tower, rest = name.split(".", 2)
        encoder = self.encoders[tower]
        return encoder.layer_of(rest) + self.depth - encoder.depth

    def is_patch_embed(self, name: str) -> bool:
        """As the parameter's tower says."""
        _, tower, rest = name.split(".", 2)
        return self.encoders[tower].is_patch_embed(rest)

    def flops(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Floating point operations of a forward pass over views of these shapes (rows, channels, ...)."""
        owners = [self.encoders[self.config.tower_of(len(shape) - 2)] for shape in shapes]
        return sum(owner.flops([shape]) for owner, shape in zip(owners, shapes, strict=True))


_fulfils: type[Encoder] = Towers  # for the type checker
