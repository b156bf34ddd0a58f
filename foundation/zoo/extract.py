"""Smaller encoders out of a larger one: which there are, how to choose one, and how they are written (POA)."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn

from foundation import config
from foundation.encoders.elastic import SubNetwork, kept_blocks, stand_alone
from foundation.errors import UserError
from foundation.modalities.parts import evaluation_shape
from foundation.plugins import Plugin, resolve
from foundation.version import VERSION
from foundation.voice import plural
from foundation.weights import unfilled
from foundation.zoo.export import CARD_FORMAT, Card, file_stem, make_folder, without_download, write_weights
from foundation.zoo.latency import RUNS, Stopwatch, Timing, milliseconds
from foundation.zoo.load import LoadedEncoder
from foundation.zoo.sections import sections, trained_sizes

CLOSE = 8
"""Candidates around a latency that are timed exactly, side by side."""
_HASTY_RUNS, _SLACK = 3, 1.25
_HELD = 500_000_000
"""Parameters of the encoders that are held in memory at once to be timed."""
_MOST_NAMED = 5
_LARGER = 64
"""Tensors of an encoder for each one of a part that was cut out of it, at most."""


@dataclass(frozen=True, kw_only=True)
class _Encoder:
    encoder: Annotated[Any, Plugin("foundation.encoders.{name}")]


@dataclass(frozen=True)
class Family:
    """The sub-networks of an encoder, smallest first.

    Attributes:
        loaded: the large one.
        sizes: those that its recipe trained, else half of its width and depth and above; its own size is among them.
        parameters: of each.
        trained: sizes that an objective of the recipe trained; empty where no elastic branch of it was trained.
    """

    loaded: LoadedEncoder
    sizes: tuple[SubNetwork, ...]
    parameters: tuple[int, ...]
    trained: frozenset[SubNetwork]

    @classmethod
    def of(cls, loaded: LoadedEncoder) -> Family:
        """Read it from the recipe that the encoder was trained with.

        Of an encoder that was itself cut out of another one, those sizes of the recipe that are parts of it.

        Raises:
            UserError: the encoder cannot be cut; says which kinds can.
        """
        encoder: Any = loaded.encoder
        own: SubNetwork = encoder.full_size
        encoder.check_size(own)
        said = trained_sizes(loaded.recipe, loaded.description, loaded.stage, loaded.branch)
        trained: set[SubNetwork] = set()
        if said.elastic:
            original: Any = _original(loaded)
            drawn = {size for branch in said.elastic for size in branch.networks(original)}
            trained = drawn | ({original.full_size} if said.whole else set())
            trained = {size for size in trained if size == own or _same_part(size, own, original, encoder)}
        usual = resolve("foundation.branches.{name}", "elastic").Config()
        found = trained or set(usual.networks(encoder))
        counted = sorted((parameters_of(encoder, size), size) for size in found | {own})
        sizes, counts = tuple(size for _, size in counted), tuple(count for count, _ in counted)
        return cls(loaded, sizes, counts, frozenset(trained))

    def doubts(self, sizes: Sequence[SubNetwork]) -> str:
        """A warning about those of some sizes that were not trained to stand alone; empty where all were."""
        if not self.trained:
            return (
                "its recipe trained no sub-networks of this encoder (no elastic branch that an objective reads): what "
                "is cut out of it was never trained to stand alone. Those to choose of are all from half its width and "
                f"depth up, {self.sizes[0]} to {self.sizes[-1]}"
            )
        untrained = [size for size in sizes if size not in self.trained]
        if not untrained:
            return ""
        named = ", ".join(map(str, untrained[:_MOST_NAMED])) + (", ..." if len(untrained) > _MOST_NAMED else "")
        verb = "is" if len(untrained) == 1 else "are"
        return f"{named} {verb} none of the {plural(len(self.trained), 'size')} that the recipe trained"

    def within(self, parameters: int) -> SubNetwork:
        """The largest with at most so many parameters.

        Raises:
            UserError: even the smallest has more; names the smallest and the largest.
        """
        fitting = [size for size, count in zip(self.sizes, self.parameters, strict=True) if count <= parameters]
        if not fitting:
            raise UserError(f"{parameters:,} parameters are fewer than any size has: {self._ends()}")
        return fitting[-1]

    def as_fast_as(self, seconds: float, stopwatch: Stopwatch) -> tuple[SubNetwork, dict[SubNetwork, Timing]]:
        """The largest that takes at most so many seconds for one sample, and the time of every one.

        All are timed in passing; those around the limit then once more, side by side.

        Raises:
            UserError: even the fastest takes longer; names it.
        """
        encoder = self.loaded.encoder
        times = {size: timed(encoder, [size], stopwatch, runs=_HASTY_RUNS)[0] for size in self.sizes}
        left = [size for size in reversed(self.sizes) if times[size].seconds <= seconds * _SLACK]
        while left:
            close, left = left[:CLOSE], left[CLOSE:]
            times.update(zip(close, timed(encoder, close, stopwatch), strict=True))
            for size in close:
                if times[size].seconds <= seconds:
                    return size, times
        fastest = min(times, key=lambda size: times[size].seconds)
        raise UserError(
            f"no size takes {milliseconds(seconds)} or less: the fastest, {fastest}, takes "
            f"{milliseconds(times[fastest].seconds)} for {stopwatch.setting}"
        )

    def _ends(self) -> str:
        first, last = f"{self.sizes[0]}, has {self.parameters[0]:,}", f"{self.sizes[-1]}, {self.parameters[-1]:,}"
        return f"the smallest, {first} and the largest, {last}"


def _original(loaded: LoadedEncoder) -> nn.Module:
    """The layers of the encoder that the recipe trained, without its numbers: the one that was loaded, or the larger
    one that it was cut out of."""
    own = sections(loaded.recipe, loaded.description, loaded.stage, loaded.branch)
    tensors = _LARGER * len(loaded.encoder.state_dict())
    return unfilled(without_download(own.encoder), tensors, loaded.description)


def _same_part(size: SubNetwork, own: SubNetwork, original: Any, encoder: Any) -> bool:
    """Whether an encoder of size ``own``, which is a part of the original, has this part of the original within it:
    evenly spread blocks of evenly spread ones need not be those that were trained."""
    if own == original.full_size:
        return True
    try:
        encoder.check_size(size)
        original.check_size(own)
    except UserError:
        return False
    return all(
        [kept_blocks(whole, most)[block] for block in kept_blocks(left, whole)] == kept_blocks(left, most)
        for left, whole, most in zip(size.depths, own.depths, original.full_size.depths, strict=True)
    )


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
) -> list[Timing]:
    """How long stand-alone sub-networks take for one sample, timed in groups that fit into memory.

    Args:
        encoder: the large one.
        sizes: of its sub-networks; those of one group take turns.
        stopwatch: where they are timed.
        told: shows the rounds of a group.
        runs: of each.
    """
    times: list[Timing] = []
    group: list[nn.Module] = []
    for number, size in enumerate(sizes, start=1):
        group.append(stand_alone(encoder, size).eval().to(stopwatch.device))
        held = sum(parameter.numel() for one in group for parameter in one.parameters())
        if held >= _HELD or number == len(sizes):
            times += stopwatch.timings(group, runs, told)
            group = []
    return times


def write_sizes(
    loaded: LoadedEncoder,
    sizes: Sequence[SubNetwork],
    out: Path,
    *,
    trained: Collection[SubNetwork],
    overwrite: bool = False,
) -> list[Path]:
    """Write sub-networks as exports, ``NAME-w96-d6.safetensors``, each with its card.

    Args:
        loaded: the large encoder.
        sizes: of its sub-networks.
        out: folder; ``NAME`` is that of the run and its branch.
        trained: sizes that the recipe trained.
        overwrite: replace files that are there.

    Raises:
        UserError: a file is there or cannot be, before any is written; the encoder has no such sub-network.
    """
    paths = {size: out / f"{_stem(loaded, size)}.safetensors" for size in sizes}
    there = [path for path in paths.values() if path.exists() or path.with_suffix(".json").exists()]
    if there and not overwrite:
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise UserError(f"{there[0]} exists{more}: choose another folder by --out, or add --overwrite")
    make_folder(out)
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
            "parameters": sum(parameter.numel() for parameter in alone.parameters()),
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
                "trained": size in trained,
            },
        }
        write_weights(path, tensors, card)
    return list(paths.values())


def _stem(loaded: LoadedEncoder, size: SubNetwork) -> str:
    """Name of a sub-network's file: a card must say one; libraries name models as they like (``hub:some/one``)."""
    of_library = not loaded.branch and loaded.folder is None
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", loaded.name) if of_library else loaded.name
    return file_stem(f"{name}-{size}" if name else name, loaded.description)


def stopwatch_for(loaded: LoadedEncoder, device: torch.device, evaluation: Any = None) -> Stopwatch:
    """A stopwatch for one sample as the model's probes see it, or as an ``evaluation`` says."""
    return Stopwatch(device, evaluation_shape(loaded.modality, evaluation or loaded.evaluation))
