"""From shards to patch tokens beside what is known of every part: label maps, depths, boxes, masks.

A label is a further member of the sample, read as ``foundation/data/extras`` reads those of a recipe: nothing is
unpickled, none may take more than its limit, and a sample without it is a bad sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from foundation.data.boundary import good_views
from foundation.data.extras import regions
from foundation.data.extras.member import Member
from foundation.data.shards import open_shards
from foundation.data.stream import iterate_samples
from foundation.errors import SampleError, UserError
from foundation.modalities.parts import decoder
from foundation.printable import printable
from foundation.probes.dense import token_features
from foundation.probes.results import progress
from foundation.probes.road import open_limited
from foundation.types import Sample
from foundation.voice import plural


@runtime_checkable
class CropsMaps(Protocol):
    """An evaluation whose view is a resized crop of a plane: what is known of the plane can follow it."""

    def placed(self, height: int, width: int) -> tuple[tuple[int, int], int, int]: ...

    def crop_map(self, values: NDArray[Any], height: int, width: int) -> NDArray[Any]: ...

    def crop_places(self, places: NDArray[Any], height: int, width: int) -> NDArray[np.float64]: ...


@runtime_checkable
class Placed(Protocol):
    """An encoder whose patch tokens have places; baselines that give one vector for a sample have none."""

    config: Any

    def coordinates(self, size: tuple[int, ...]) -> NDArray[np.int64]: ...


@dataclass(frozen=True, kw_only=True)
class Numbers(Member):
    """Arrays (``npy``, or a ``png`` of one channel) of any size with so many axes."""

    axes: int = 2
    """Of every array."""
    whole: bool = False
    """Whole numbers alone."""

    def read(self, payload: bytes, raw: Any) -> NDArray[Any]:
        """See :meth:`Member.read`."""
        if payload.startswith(b"\x89PNG"):
            return regions.Config(member=self.member, max_mib=self.max_mib).read(payload, raw)
        found = self.array(payload, raw)
        if found.ndim != self.axes or not found.size or (self.whole and found.dtype.kind not in "biu"):
            kind = "whole numbers" if self.whole else "numbers"
            raise self.refused(
                raw, "shape", f"{found.dtype.name} {list(found.shape)}, where {kind} with {self.axes} axes belong"
            )
        return found


@dataclass(frozen=True)
class Batch:
    """Some samples with the features of their parts.

    Attributes:
        view: [B, ...] as the encoder saw it, on its device.
        tokens: [B, N, D] float32 patch tokens, on that device.
        grid: tokens along each axis of the view, the last axis fastest.
        samples: B, decoded, with their labels as ``__extras__``.
    """

    view: Tensor
    tokens: Tensor
    grid: tuple[int, ...]
    samples: Sequence[Sample]


@dataclass
class Reading:
    """How a model looks at labelled shards.

    Attributes:
        loaded: the model.
        evaluation: its modality's ``EvaluationConfig``.
        members: labels to read, by name.
        blocks: last blocks whose tokens are put side by side.
        batch_size: samples per forward pass.
        limit: at most so many samples, spread evenly; None: all.
        device: where the encoder runs.
        autocast: run it in bfloat16.
        tokens_of: from encoder and view to tokens [B, N, D]; None: the patch tokens of the last blocks.
        bad: what was wrong with samples that were left out.
    """

    loaded: Any
    evaluation: Any
    members: Mapping[str, Member]
    blocks: int = 1
    batch_size: int = 16
    limit: int | None = None
    device: torch.device | str = "cpu"
    autocast: bool = False
    tokens_of: Callable[[Any, Tensor], Tensor] | None = None
    bad: list[SampleError] = field(default_factory=list)

    def count(self, patterns: Sequence[str]) -> int:
        """Samples that :meth:`batches` looks at."""
        return int(open_limited(patterns, self.limit).num_samples)

    def batches(self, patterns: Sequence[str], what: str) -> Iterator[Batch]:
        """All good samples, in stored order, some at a time; no more than a batch lies in memory.

        Args:
            patterns: shards.
            what: said in front of the progress bar.

        Raises:
            UserError: no sample can be used.
        """
        shards = open_limited(patterns, self.limit)
        prepare, seen = self.evaluation.build(), 0
        total = -(-shards.num_samples // self.batch_size)
        context = torch.autocast(torch.device(self.device).type, torch.bfloat16) if self.autocast else nullcontext()
        for decoded in progress(self._decoded(shards), total, what):
            view, samples, wrong = good_views(prepare, decoded)
            self.bad.extend(error for _, error in wrong)
            if view is None:
                continue
            view = view.to(self.device)
            with torch.inference_mode(), context:
                own = self.tokens_of
                encoder = self.loaded.encoder
                tokens = token_features(encoder, view, self.blocks) if own is None else own(encoder, view)
            seen += len(samples)
            # A copy outside of inference mode: heads need ordinary tensors.
            yield Batch(view, tokens.float().clone(), self.grid(view), samples)
        if not seen:
            first = f": {printable(self.bad[0])}" if self.bad else ""
            raise UserError(f"{what}: no sample can be used{first}")

    def _decoded(self, shards: Any) -> Iterator[list[Sample]]:
        inner, members = decoder(self.loaded.modality, self.evaluation), self.members

        def decode(raw: Any) -> Sample:
            sample: Sample = inner(raw)
            sample["__extras__"] = {name: member.decode(raw) for name, member in members.items()}
            return sample

        batch: list[Sample] = []
        for sample in iterate_samples(shards, decode, self.bad):
            batch.append(sample)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def grid(self, view: Tensor) -> tuple[int, ...]:
        """Tokens along each axis of a view [B, C, ...]."""
        return grid_of(self.loaded.encoder, tuple(view.shape[2:]))

    def warnings(self) -> list[str]:
        """What to say of the samples that were left out."""
        if not self.bad:
            return []
        return [f"{plural(len(self.bad), 'sample')} left out, the first: {printable(self.bad[0])}"]


def grid_of(encoder: Any, size: tuple[int, ...]) -> tuple[int, ...]:
    """Tokens along each axis of a view of some size, without channels; empty where they lie on no grid.

    Raises:
        UserError: the size does not fit the encoder's patches.
    """
    if not isinstance(encoder, Placed) or getattr(encoder.config, "coordinates_of", None) is not None:
        return ()
    coordinates = np.asarray(encoder.coordinates(size))
    sides = tuple(int(side) for side in coordinates.max(axis=0) + 1)
    return sides if len(coordinates) == int(np.prod(sides)) else ()


def members_of(patterns: Sequence[str]) -> list[str]:
    """Members of the first sample of some shards.

    Raises:
        UserError: there is no such shard, or no sample.
    """
    shards = open_shards(list(patterns))
    if not shards.num_samples:
        raise UserError(f"no samples in {', '.join(patterns)}")
    raw = shards.read(*shards.locate(0))
    return [name for name in raw if not name.startswith("__")]


def chosen(wanted: str | None, known: Sequence[str], patterns: Sequence[str]) -> str | None:
    """The member that holds a label: the one that is wanted, else the first of those known that the shards have; None
    where they have none."""
    there = members_of(patterns)
    return next((name for name in ([wanted] if wanted else known) if name in there), None)


def lacking(what: str, known: Sequence[str], patterns: Sequence[str]) -> str:
    """What to say of shards without a label."""
    there = ", ".join(members_of(patterns)) or "none"
    return f"{what} needed: a member {' or '.join(known)} of each sample (there: {there}; {patterns[0]})"


def over_labels(patterns: Sequence[str], member: Member, limit: int | None = None) -> Iterator[Any]:
    """The labels alone, in stored order; nothing else is read, and samples without are passed over."""
    shards = open_limited(patterns, limit)
    for number in range(shards.num_samples):
        try:
            yield member.decode(shards.read(*shards.locate(number), {member.member}))
        except SampleError:
            continue


def colours_and_places(view: Tensor, grid: tuple[int, ...]) -> dict[str, Tensor]:
    """What a person would try first, for features to be compared with, [B, N, ...] each.

    ``position``: where a token lies: its coordinates in [-1, 1], their squares and products. ``raw``: position, and
    mean and deviation of every channel of the view within the token.

    Args:
        view: [B, C, H, W].
        grid: tokens down and across.
    """
    rows_and_columns = grid[0], grid[1]
    axes = [torch.linspace(-1 + 1 / side, 1 - 1 / side, side, device=view.device) for side in grid]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)  # [N, 2]
    rows, columns = places.T
    position = torch.stack([rows, columns, rows**2, columns**2, rows * columns], -1).expand(len(view), -1, -1)
    mean = F.adaptive_avg_pool2d(view.float(), rows_and_columns)
    deviation = (F.adaptive_avg_pool2d(view.float().square(), rows_and_columns) - mean.square()).clamp(min=0).sqrt()
    levels = torch.cat([mean, deviation], 1).flatten(2).transpose(1, 2)  # [B, N, 2 C]
    return {"raw": torch.cat([levels, position], -1), "position": position}
