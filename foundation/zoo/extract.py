"""Smaller encoders out of a larger one: which there are, how to choose one, and how they are written (POA)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn

from foundation import config
from foundation.encoders.elastic import SubNetwork, stand_alone
from foundation.errors import UserError
from foundation.modalities.parts import evaluation_shape
from foundation.plugins import Plugin, resolve
from foundation.version import VERSION
from foundation.zoo.export import CARD_FORMAT, Card, write_weights
from foundation.zoo.latency import RUNS, Stopwatch
from foundation.zoo.load import LoadedEncoder
from foundation.zoo.sections import elastic_branches

NOT_TRAINED = (
    "no elastic branch of its recipe trained sub-networks of this encoder: what is cut out of it was never trained to "
    "stand alone"
)
"""Of an encoder whose sizes are of little use."""
CLOSE = 8
"""Candidates around a latency that are timed exactly, side by side."""
_HASTY_RUNS, _SLACK = 3, 1.25
_HELD = 500_000_000
"""Parameters of the encoders that are held in memory at once to be timed."""


@dataclass(frozen=True, kw_only=True)
class _Encoder:
    encoder: Annotated[Any, Plugin("foundation.encoders.{name}")]


@dataclass(frozen=True)
class Family:
    """The sub-networks of an encoder, smallest first.

    Attributes:
        loaded: the large one.
        sizes: those that its recipe trained, or half of its width and depth and above; its own size is among them.
        parameters: of each.
        trained: whether an elastic branch of the recipe trained them.
    """

    loaded: LoadedEncoder
    sizes: tuple[SubNetwork, ...]
    parameters: tuple[int, ...]
    trained: bool

    @classmethod
    def of(cls, loaded: LoadedEncoder) -> Family:
        """Read it from the recipe that the encoder was trained with.

        Raises:
            UserError: the encoder cannot be cut; says which kinds can.
        """
        encoder: Any = loaded.encoder
        encoder.check_size(encoder.full_size)
        branches = elastic_branches(loaded.recipe, loaded.description, loaded.stage, loaded.branch)
        usual = [resolve("foundation.branches.{name}", "elastic").Config()]
        found = {size for branch in branches or usual for size in branch.networks(encoder)} | {encoder.full_size}
        counted = sorted((parameters_of(encoder, size), size) for size in found)
        return cls(loaded, tuple(size for _, size in counted), tuple(count for count, _ in counted), bool(branches))

    def within(self, parameters: int) -> SubNetwork:
        """The largest with at most so many parameters.

        Raises:
            UserError: even the smallest has more; names the smallest and the largest.
        """
        fitting = [size for size, count in zip(self.sizes, self.parameters, strict=True) if count <= parameters]
        if not fitting:
            raise UserError(f"{parameters:,} parameters are fewer than any size has: {self._ends()}")
        return fitting[-1]

    def as_fast_as(self, seconds: float, stopwatch: Stopwatch) -> tuple[SubNetwork, float]:
        """The largest that takes at most so many seconds for one sample, and the seconds that it took.

        All are timed in passing; those around the limit then once more, side by side.

        Raises:
            UserError: even the fastest takes longer; names it.
        """
        encoder = self.loaded.encoder
        hasty = {size: timed(encoder, [size], stopwatch, runs=_HASTY_RUNS)[0] for size in self.sizes}
        left = [size for size in reversed(self.sizes) if hasty[size] <= seconds * _SLACK]
        while left:
            close, left = left[:CLOSE], left[CLOSE:]
            for size, taken in zip(close, timed(encoder, close, stopwatch), strict=True):
                if taken <= seconds:
                    return size, taken
        fastest = min(hasty, key=lambda size: hasty[size])
        raise UserError(
            f"no size takes {milliseconds(seconds)} or less: the fastest, {fastest}, takes "
            f"{milliseconds(hasty[fastest])} for {stopwatch.setting}"
        )

    def _ends(self) -> str:
        first, last = f"{self.sizes[0]}, has {self.parameters[0]:,}", f"{self.sizes[-1]}, {self.parameters[-1]:,}"
        return f"the smallest, {first} and the largest, {last}"


def parameters_of(encoder: Any, size: SubNetwork) -> int:
    """Parameters of a sub-network, which is not made for it.

    Raises:
        UserError: the encoder has no such sub-network.
    """
    encoder.check_size(size)
    shapes = {name: torch.empty_like(parameter, device="meta") for name, parameter in encoder.named_parameters()}
    pieces = encoder.slice_of(size).pieces.values()
    return sum(piece.of(shapes[piece.source]).numel() for piece in pieces if piece.source in shapes)


def timed(
    encoder: Any,
    sizes: Sequence[SubNetwork],
    stopwatch: Stopwatch,
    told: Callable[[range], Any] | None = None,
    runs: int = RUNS,
) -> list[float]:
    """Median seconds of stand-alone sub-networks for one sample, in groups that fit into memory.

    Args:
        encoder: the large one.
        sizes: of its sub-networks; those of one group take turns.
        stopwatch: where they are timed.
        told: shows the rounds of a group.
        runs: of each.
    """
    seconds: list[float] = []
    group: list[nn.Module] = []
    for number, size in enumerate(sizes, start=1):
        group.append(stand_alone(encoder, size).eval().to(stopwatch.device))
        held = sum(parameter.numel() for one in group for parameter in one.parameters())
        if held >= _HELD or number == len(sizes):
            seconds += stopwatch.seconds(group, runs, told)
            group = []
    return seconds


def size_named(encoder: Any, width: int | None, depths: Sequence[int] | None) -> SubNetwork:
    """The sub-network of a width and depths, each the whole encoder's where it is not given.

    Args:
        encoder: the large one.
        width: see :class:`foundation.encoders.elastic.SubNetwork`.
        depths: likewise; a single one is that of the deepest stage.

    Raises:
        UserError: the encoder has none of that size; says which it has.
    """
    full: SubNetwork = encoder.full_size
    if depths is not None and len(depths) == 1:
        deepest = max(range(len(full.depths)), key=lambda stage: full.depths[stage])
        depths = (*full.depths[:deepest], *depths, *full.depths[deepest + 1 :])
    size = SubNetwork(width or full.width, tuple(depths or full.depths))
    encoder.check_size(size)
    return size


def write_sizes(
    loaded: LoadedEncoder, sizes: Sequence[SubNetwork], out: Path, *, trained: bool, overwrite: bool = False
) -> list[Path]:
    """Write sub-networks as exports, ``NAME-w96-d6.safetensors``, each with its card.

    Args:
        loaded: the large encoder.
        sizes: of its sub-networks.
        out: folder; ``NAME`` is that of the run and its branch.
        trained: whether the recipe trained such sub-networks.
        overwrite: replace files that are there.

    Raises:
        UserError: a file is there, before any is written; the encoder has no such sub-network.
    """
    paths = {size: out / f"{loaded.name}-{size}.safetensors" for size in sizes}
    there = [path for path in paths.values() if path.exists() or path.with_suffix(".json").exists()]
    if there and not overwrite:
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise UserError(f"{there[0]} exists{more}: choose another folder by --out, or add --overwrite")
    for size, path in paths.items():
        alone: Any = stand_alone(loaded.encoder, size)
        tensors = alone.state_dict()
        card: Card = {
            "format": CARD_FORMAT,
            "name": f"{loaded.name}-{size}",
            "branch": loaded.branch,
            "step": loaded.step,
            "modality": loaded.modality,
            "encoder": dict(config.to_plain(_Encoder(encoder=alone.config))["encoder"]),
            "evaluation": config.to_plain(loaded.evaluation),
            "parameters": sum(tensor.numel() for tensor in tensors.values()),
            "file": path.name,
            "sha256": "",
            "computed": dict(loaded.computed),
            "recipe": loaded.recipe,
            "foundation_version": VERSION,
            "measured": False,  # the run was measured by the whole
            "stage": loaded.stage,
            "sub_network": {
                "width": size.width,
                "depths": list(size.depths),
                "of": loaded.sha256,
                "trained": trained,
            },
        }
        write_weights(path, tensors, card)
    return list(paths.values())


def stopwatch_for(loaded: LoadedEncoder, device: torch.device, evaluation: Any = None) -> Stopwatch:
    """A stopwatch for one sample as the model's probes see it, or as an ``evaluation`` says."""
    return Stopwatch(device, evaluation_shape(loaded.modality, evaluation or loaded.evaluation))


def milliseconds(seconds: float) -> str:
    """0.00512 -> ``5.12 ms``."""
    return f"{1000 * seconds:.3g} ms"
