"""From raw samples to a ready batch, inside a loader worker. Knows no modality: it is handed the parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.counter import Draws
from foundation.data.shards import RawSample
from foundation.errors import DataBudgetError, SampleError
from foundation.types import Batch, Sample, TokenMask

_MESSAGES = 8
"""Bad samples of one batch that are named; the rest is counted only."""

_AT_ONCE = 16
"""Samples of an evaluation batch that lie decoded in memory together: whole videos are large, their views are not."""

ATTEMPTS = 16
"""Substitutes that are tried for one bad sample before the run is stopped."""

RawOrError: TypeAlias = RawSample | SampleError
Substitute: TypeAlias = Callable[[int, int], tuple[RawOrError, int, int]]
"""(row, number of the attempt) -> raw sample or what is wrong with it, its epoch and its id."""
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
        self, coordinates: NDArray[Any], count: int, draws: Draws, places: NDArray[np.int64], group: int, step: int
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


class Decoder:
    """Decodes the samples of one batch and keeps count of the bad ones.

    Args:
        decode: of the modality; raises :class:`SampleError` for a sample that it cannot use. One whose ``takes_draws``
            is true is called as ``decode(raw, draws)`` in training: it may read a random part of a long recording.

    Attributes:
        skipped: bad samples by reason.
        messages: what was wrong with the first few of them.
    """

    def __init__(self, decode: Callable[..., Sample]) -> None:
        self._decode = decode
        self._takes_draws = bool(getattr(decode, "takes_draws", False))
        self.skipped: Counter[str] = Counter()
        self._messages: list[str] = []

    @property
    def messages(self) -> tuple[str, ...]:
        return tuple(self._messages)

    def __call__(self, raw: RawOrError, draws: Draws | None = None) -> Sample | SampleError:
        """The sample, or what is wrong with it, counted; ``draws`` are random numbers of this sample alone."""
        try:
            if isinstance(raw, SampleError):
                raise raw
            return self._decode(raw, draws) if self._takes_draws else self._decode(raw)
        except SampleError as error:
            self.skipped[error.reason] += 1
            if len(self._messages) < _MESSAGES:
                self._messages.append(f"{error.shard}: {error.key}: {error.reason}: {error.detail}")
            return error
        except Exception as error:
            if not isinstance(raw, SampleError):
                error.add_note(f"while decoding sample {raw['__key__']!r} of {raw['__shard__']}")
            raise


def labels_of(samples: Sequence[Sample]) -> Tensor:
    """[B] int64, -1 where a sample has no label."""
    return torch.tensor([int(sample.get("label", -1)) for sample in samples], dtype=torch.int64)


@dataclass
class TrainingPipeline:
    """Decoding, views and masks of a batch.

    Another sample takes the place of a bad one, drawn by a pure function: batches are always whole, as processes that
    train together need them, and no other sample's views or masks change.

    Args:
        decode: of the modality: raw sample -> sample.
        views: of the modality.
        masking: None for none; else its ``view`` names the role that is masked. Several: by role.
        coordinates: of the tokens of a view [N, d]: by role, or a function of the view's size.
        places: for tokens that lie elsewhere in every sample: from the data of a role [R, ...] to [R, N, d]. The views
            then have a method ``inputs(prepared, role)`` that gives that data.
        finish_in_worker: also do the half of the views that a device would do; the batch is then complete.
    """

    decode: Callable[[RawSample], Sample]
    views: Views
    masking: Masking | Mapping[str, Masking] | None = None
    coordinates: Coordinates | None = None
    finish_in_worker: bool = True
    places: Callable[[Tensor], Tensor] | None = None
    _grids: dict[str, NDArray[np.int64]] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, raws: Sequence[RawOrError], draws: Draws, plan: Plan, substitute: Substitute) -> Batch:
        """Make a batch.

        Args:
            raws: [B] raw samples or what went wrong reading them.
            draws: random numbers of the B samples.
            plan: where the batch lies in the stream.
            substitute: gives another sample in the place of a bad one.

        Returns:
            A batch of B samples; its views are empty and ``pending`` is set when the device has to finish them.

        Raises:
            DataBudgetError: a bad sample and all substitutes for it are bad.
        """
        decoder = Decoder(self.decode)
        samples: list[Sample] = []
        epochs, ids = draws.epochs.copy(), draws.ids.copy()
        for row, raw in enumerate(raws):
            first = sample = decoder(raw, draws.take(np.array([row])))
            for attempt in range(ATTEMPTS):
                if not isinstance(sample, SampleError):
                    break
                other, epochs[row], ids[row] = substitute(row, attempt)
                sample = decoder(other, replace(draws, epochs=epochs[row : row + 1], ids=ids[row : row + 1]))
            if isinstance(sample, SampleError):
                raise _hopeless(first, sample)
            samples.append(sample)
        draws = replace(draws, epochs=epochs, ids=ids)
        places = plan.place + np.arange(len(samples), dtype=np.int64)
        prepared = self.views.prepare(samples, draws)
        masks: dict[str, TokenMask] = {}
        for role, masking in self._maskings().items():
            count, shape = self.views.describe()[role]
            if self.places is not None and getattr(masking, "by_place", True):
                where = self.places(self.views.inputs(prepared, role)).numpy()  # type: ignore[attr-defined]
            else:
                where = self._grid(role, shape)
            masks[role] = masking(where, count, draws, places, plan.group, plan.step)
        return Batch(
            views=self.views.finish(prepared) if self.finish_in_worker else {},
            masks=masks,
            keys=tuple(sample["__key__"] for sample in samples),
            labels=labels_of(samples),
            position=plan.start + plan.place,
            size=len(samples),
            skipped=dict(decoder.skipped),
            messages=decoder.messages,
            pending=None if self.finish_in_worker else prepared,
        )

    def _maskings(self) -> Mapping[str, Masking]:
        if self.masking is None:
            return {}
        if isinstance(self.masking, Mapping):
            return self.masking
        return getattr(self.masking, "parts", None) or {self.masking.view: self.masking}

    def _grid(self, role: str, shape: tuple[int, ...]) -> NDArray[np.int64]:
        if role not in self._grids:
            assert self.coordinates is not None, "masking needs the coordinates of the tokens"
            if callable(self.coordinates):
                self._grids[role] = self.coordinates(tuple(shape[1:]))
            else:
                self._grids[role] = self.coordinates[role]
        return self._grids[role]


def _hopeless(first: Any, last: SampleError) -> DataBudgetError:
    return DataBudgetError(
        f"{first}. {ATTEMPTS} samples drawn in its place are bad too, the last being {last}. Training on what is left "
        "would mean little: 'foundation data verify' lists what is wrong with the shards"
    )


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

    def __call__(self, raws: Sequence[RawOrError], draws: Draws, plan: Plan, substitute: Substitute) -> EvalBatch:
        """Make a batch of the good samples; arguments as for :class:`TrainingPipeline`, which alone draws others."""
        decoder = Decoder(self.decode)
        data: list[Tensor] = []
        labels: list[Tensor] = []
        names: list[tuple[str, int]] = []
        for start in range(0, len(raws), _AT_ONCE):
            decoded = [decoder(raw) for raw in raws[start : start + _AT_ONCE]]
            samples = [sample for sample in decoded if not isinstance(sample, SampleError)]
            if samples:
                data.append(self.prepare(samples))
                labels.append(labels_of(samples))
                names += [(sample["__key__"], int(sample["__id__"])) for sample in samples]
        return EvalBatch(
            data=torch.cat(data) if data else torch.empty(0),
            labels=torch.cat(labels) if labels else labels_of([]),
            keys=tuple(key for key, _ in names),
            ids=torch.tensor([number for _, number in names], dtype=torch.int64),
            skipped=dict(decoder.skipped),
            messages=decoder.messages,
        )
