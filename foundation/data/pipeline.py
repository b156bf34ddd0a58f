"""From raw samples to a ready batch, inside a loader worker. Knows no modality: it is handed the parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.counter import Draws
from foundation.data.shards import RawSample
from foundation.errors import SampleError
from foundation.types import Batch, Sample, TokenMask

_MESSAGES = 8
"""Bad samples of one batch that are named; the rest is counted only."""

RawOrError: TypeAlias = RawSample | SampleError
Coordinates: TypeAlias = Callable[[tuple[int, ...]], NDArray[np.int64]] | Mapping[str, NDArray[np.int64]]


class Views(Protocol):
    """What the pipeline asks of a modality's views (``foundation/modalities/*/views.py``).

    ``describe`` gives views per sample and shape of one view by role: ``{"global": (2, (3, 224, 224)), ...}``.
    """

    def describe(self) -> Mapping[str, tuple[int, tuple[int, ...]]]: ...

    def prepare(self, samples: list[Sample], draws: Draws) -> Any: ...

    def finish(self, prepared: Any) -> Mapping[str, Any]: ...


class Masking(Protocol):
    """What the pipeline asks of a masking (``foundation/masking.py``)."""

    view: str

    def __call__(
        self, coordinates: NDArray[np.int64], count: int, draws: Draws, places: NDArray[np.int64], group: int, step: int
    ) -> TokenMask: ...


@dataclass(frozen=True)
class Plan:
    """One micro-batch of one process.

    Attributes:
        start: position in the stream of the first sample of the global batch.
        place: place of this micro-batch's first sample inside the global batch.
        size: samples of this micro-batch.
        group: samples of the global batch.
        step: optimiser step, from 0.
    """

    start: int
    place: int
    size: int
    group: int
    step: int

    @property
    def positions(self) -> NDArray[np.int64]:
        """[size] places in the stream of the whole run."""
        return np.arange(self.start + self.place, self.start + self.place + self.size, dtype=np.int64)


def decode_all(
    raws: Iterable[RawOrError], decode: Callable[[RawSample], Sample]
) -> tuple[list[Sample], list[int], dict[str, int], tuple[str, ...]]:
    """Decode what can be decoded.

    Args:
        raws: raw samples, or the error that reading one of them gave.
        decode: of the modality; raises :class:`SampleError` for a sample that it cannot use.

    Returns:
        The good samples, their rows among all, the bad ones counted by reason, and messages about the first of them.
    """
    samples: list[Sample] = []
    rows: list[int] = []
    skipped: Counter[str] = Counter()
    messages: list[str] = []
    for row, raw in enumerate(raws):
        try:
            if isinstance(raw, SampleError):
                raise raw
            samples.append(decode(raw))
            rows.append(row)
        except SampleError as error:
            skipped[error.reason] += 1
            if len(messages) < _MESSAGES:
                messages.append(f"{error.shard}: {error.key}: {error.reason}: {error.detail}")
        except Exception as error:
            if not isinstance(raw, SampleError):
                error.add_note(f"while decoding sample {raw['__key__']!r} of {raw['__shard__']}")
            raise
    return samples, rows, dict(skipped), tuple(messages)


def labels_of(samples: Sequence[Sample]) -> Tensor:
    """[B] int64, -1 where a sample has no label."""
    return torch.tensor([int(sample.get("label", -1)) for sample in samples], dtype=torch.int64)


@dataclass
class TrainingPipeline:
    """Decoding, views and masks of a batch.

    A bad sample leaves a gap: the batch shrinks by it, and no other sample's views or masks change. A batch in which
    no sample is good has neither views nor masks.

    Args:
        decode: of the modality: raw sample -> sample.
        views: of the modality.
        masking: None for none; else its ``view`` names the role that is masked. Several: by role.
        coordinates: of the tokens of a view [N, d]: by role, or a function of the view's size.
        finish_in_worker: also do the half of the views that a device would do; the batch is then complete.
    """

    decode: Callable[[RawSample], Sample]
    views: Views
    masking: Masking | Mapping[str, Masking] | None = None
    coordinates: Coordinates | None = None
    finish_in_worker: bool = True
    _grids: dict[str, NDArray[np.int64]] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, raws: Sequence[RawOrError], draws: Draws, plan: Plan) -> Batch:
        """Make a batch.

        Args:
            raws: [B] raw samples or what went wrong reading them.
            draws: random numbers of the B samples.
            plan: where the batch lies in the stream.

        Returns:
            The batch; its views are empty and ``pending`` is set when the device has to finish them.
        """
        samples, rows, skipped, messages = decode_all(raws, self.decode)
        views: Mapping[str, Any] = {}
        masks: dict[str, TokenMask] = {}
        pending = None
        if samples:
            if len(rows) < len(raws):
                draws = draws.take(np.asarray(rows, dtype=np.int64))
            places = plan.place + np.asarray(rows, dtype=np.int64)
            prepared = self.views.prepare(samples, draws)
            if self.finish_in_worker:
                views = self.views.finish(prepared)
            else:
                pending = prepared
            for role, masking in self._maskings().items():
                count, shape = self.views.describe()[role]
                masks[role] = masking(self._grid(role, shape), count, draws, places, plan.group, plan.step)
        return Batch(
            views=views,
            masks=masks,
            keys=tuple(sample["__key__"] for sample in samples),
            labels=labels_of(samples),
            position=plan.start + plan.place,
            size=len(raws),
            skipped=skipped,
            messages=messages,
            pending=pending,
        )

    def _maskings(self) -> Mapping[str, Masking]:
        if self.masking is None:
            return {}
        return self.masking if isinstance(self.masking, Mapping) else {self.masking.view: self.masking}

    def _grid(self, role: str, shape: tuple[int, ...]) -> NDArray[np.int64]:
        if role not in self._grids:
            assert self.coordinates is not None, "masking needs the coordinates of the tokens"
            if callable(self.coordinates):
                self._grids[role] = self.coordinates(tuple(shape[1:]))
            else:
                self._grids[role] = self.coordinates[role]
        return self._grids[role]


@dataclass(frozen=True)
class EvalBatch:
    """Samples in stored order, one view each.

    Attributes:
        data: [B, ...]; [0] when no sample of the batch is good.
        labels: [B] int64, -1 where a sample has none.
        keys: [B].
        ids: [B] int64, number in the data set.
        skipped: bad samples by reason.
        messages: what was wrong with the first few of them.
    """

    data: Tensor
    labels: Tensor
    keys: tuple[str, ...]
    ids: Tensor
    skipped: Mapping[str, int]
    messages: tuple[str, ...]


@dataclass
class EvalPipeline:
    """Decoding and the one evaluation view of each sample.

    Args:
        decode: raw sample -> sample.
        prepare: samples -> [B, ...].
    """

    decode: Callable[[RawSample], Sample]
    prepare: Callable[[list[Sample]], Tensor]

    def __call__(self, raws: Sequence[RawOrError], draws: Draws, plan: Plan) -> EvalBatch:
        """Make a batch; arguments as for :class:`TrainingPipeline`, whose random numbers are not used."""
        samples, _, skipped, messages = decode_all(raws, self.decode)
        return EvalBatch(
            data=self.prepare(samples) if samples else torch.empty(0),
            labels=labels_of(samples),
            keys=tuple(sample["__key__"] for sample in samples),
            ids=torch.tensor([int(sample["__id__"]) for sample in samples], dtype=torch.int64),
            skipped=skipped,
            messages=messages,
        )
