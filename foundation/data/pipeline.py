"""From raw samples to a ready batch, inside a loader worker. Knows no modality: it is handed the parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.counter import Draws
from foundation.data.boundary import MAX_DECODED_BYTES, Boundary, RawOrError, bytes_of, good_views, pieces, prepared
from foundation.data.shards import RawSample
from foundation.errors import DataBudgetError, SampleError
from foundation.types import BadSample, Batch, Sample, TokenMask

_AT_ONCE = 16
"""Samples of an evaluation batch that lie decoded in memory together: whole videos are large, their views are not."""

ATTEMPTS = 16
"""Substitutes that are tried for one bad sample before the run is stopped."""

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


@runtime_checkable
class Joining(Protocol):
    """Views that can be made of a part of a batch at a time, so that not all of it lies decoded in memory at once.

    ``join(parts, draws)`` gives what ``prepare`` gives for all samples together, bit by bit; ``draws`` are of them all.
    """

    def join(self, parts: Sequence[Any], draws: Draws) -> Any: ...


class Masking(Protocol):
    """Makes the masks of one view by one rule, of one process's part of a batch.

    Attributes:
        by_coordinates: whether the masks depend on where the tokens lie.
        apart_from: names of rules whose visible tokens this one hides; their masks are made before.
    """

    by_coordinates: bool
    apart_from: tuple[str, ...]

    def __call__(
        self,
        coordinates: NDArray[Any],
        count: int,
        draws: Draws,
        slots: NDArray[np.int64],
        group: int,
        step: int,
        must: NDArray[np.bool_] | None = None,
    ) -> TokenMask:
        """Masks of a batch.

        Args:
            coordinates: [N, d] place of each token in its grid; or [R, N, d] where it lies elsewhere in every row.
            count: views per sample.
            draws: random numbers of the B samples.
            slots: [B] number of each sample in its global batch, 0 to group - 1.
            group: samples in the global batch.
            step: number of the global batch.
            must: [R, N] tokens that have to be hidden.

        Returns:
            A mask with R = count x B rows, view-major, on the CPU.
        """


class Extra(Protocol):
    """What the pipeline asks of a further member of the samples (``foundation/data/extras``)."""

    def decode(self, raw: RawSample) -> Any: ...

    def collate(self, values: Sequence[Any]) -> Tensor | tuple[Any, ...]: ...


@dataclass(frozen=True)
class Plan:
    """One micro-batch of one process.

    Attributes:
        start: position in the stream of the first sample of the global batch.
        offset: of this micro-batch's first sample in the global batch.
        size: samples of this micro-batch.
        group: samples of the global batch.
        step: optimiser step, from 0.
    """

    start: int
    offset: int
    size: int
    group: int
    step: int

    @property
    def positions(self) -> NDArray[np.int64]:
        """[size] positions in the stream of the whole run."""
        return np.arange(self.start + self.offset, self.start + self.offset + self.size, dtype=np.int64)


def labels_of(samples: Sequence[Sample]) -> Tensor:
    """[B] int64, -1 where a sample has no label that is a class number."""
    labels = [sample.get("label") for sample in samples]
    return torch.tensor([label if isinstance(label, int) else -1 for label in labels], dtype=torch.int64)


def _without_data(sample: Sample) -> Sample:
    return {name: value for name, value in sample.items() if name.startswith("__") or name == "label"}


def masks_of(
    maskings: Mapping[tuple[str, str], Masking],
    coordinates: Callable[[str, bool], NDArray[Any]],
    counts: Mapping[str, int],
    draws: Draws,
    slots: NDArray[np.int64],
    group: int,
    step: int,
) -> dict[tuple[str, str], TokenMask]:
    """The masks of a batch by all rules.

    Args:
        maskings: by (view, rule), each behind those that it stays apart from: see ``foundation/masks/rule.py``.
        coordinates: of the tokens of a view; told its name, and whether it matters where tokens without a grid lie.
        counts: views per sample, by name.
        draws: see :meth:`Masking.__call__`, as for ``slots``, ``group`` and ``step``.
    """
    masks: dict[tuple[str, str], TokenMask] = {}
    for (view, name), masking in maskings.items():
        must = None
        for other in masking.apart_from:
            seen = ~masks[view, other].masked.numpy()
            must = seen if must is None else must | seen
        where = coordinates(view, masking.by_coordinates)
        masks[view, name] = masking(where, counts[view], draws, slots, group, step, must)
    return masks


@dataclass
class TrainingPipeline:
    """Decoding, views and masks of a batch.

    Another sample takes the place of a bad one, drawn by a pure function: batches are always whole, as processes that
    train together need them, and no other sample's views or masks change.

    Args:
        decode: of the modality: raw sample -> sample.
        views: of the modality.
        masking: mask makers by (role, rule), each behind those that it stays apart from.
        coordinates: of the tokens of a view [N, d]: by role, or a function of the view's size.
        coordinates_of: for tokens that lie elsewhere in every sample: from a role's data [R, ...] to [R, N, d]. Views
            then have ``inputs(prepared, role)`` that gives that data.
        finish_in_worker: also do the half of the views that a device would do; the batch is then complete.
        max_bytes: that one decoded sample may take. Views that are :class:`Joining` are made of the first samples of a
            batch before more are decoded when those take as much.
        extras: further members of each sample, by name.
    """

    decode: Callable[[RawSample], Sample]
    views: Views
    masking: Mapping[tuple[str, str], Masking] = field(default_factory=dict)
    coordinates: Coordinates | None = None
    finish_in_worker: bool = True
    coordinates_of: Callable[[Tensor], Tensor] | None = None
    max_bytes: int = MAX_DECODED_BYTES
    extras: Mapping[str, Extra] = field(default_factory=dict)
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
        rows = _Rows(self, raws, draws, substitute)
        ready, samples = rows.views()
        draws = rows.draws()
        slots = plan.offset + np.arange(len(samples), dtype=np.int64)
        described = self.views.describe()

        def coordinates(role: str, by_coordinates: bool) -> NDArray[Any]:
            if self.coordinates_of is not None and by_coordinates:
                where: NDArray[Any] = self.coordinates_of(self.views.inputs(ready, role)).numpy()  # type: ignore[attr-defined]
                return where
            return self._grid(role, described[role][1])

        counts = {role: count for role, (count, _) in described.items()}
        return Batch(
            views=self.views.finish(ready) if self.finish_in_worker else {},
            masks=masks_of(self.masking, coordinates, counts, draws, slots, plan.group, plan.step),
            keys=tuple(sample["__key__"] for sample in samples),
            labels=labels_of(samples),
            position=plan.start + plan.offset,
            size=len(samples),
            index=torch.tensor([sample["__index__"] for sample in samples], dtype=torch.int64),
            extras={name: e.collate([s["__extras__"][name] for s in samples]) for name, e in self.extras.items()},
            skipped=dict(rows.boundary.skipped),
            bad=tuple(rows.boundary.bad),
            notes=rows.boundary.notes,
            pending=None if self.finish_in_worker else ready,
        )

    def _grid(self, role: str, shape: tuple[int, ...]) -> NDArray[np.int64]:
        if role not in self._grids:
            assert self.coordinates is not None, "masking needs the coordinates of the tokens"
            if callable(self.coordinates):
                self._grids[role] = self.coordinates(tuple(shape[1:]))
            else:
                self._grids[role] = self.coordinates[role]
        return self._grids[role]


@dataclass(frozen=True)
class _Decode:
    """A modality's decoder, with the number of the sample and its further members."""

    decode: Callable[..., Sample]
    extras: Mapping[str, Extra]

    @property
    def takes_draws(self) -> bool:
        return bool(getattr(self.decode, "takes_draws", False))

    def __call__(self, raw: RawSample, *draws: Draws) -> Sample:
        sample = self.decode(raw, *draws)
        sample["__index__"] = raw["__index__"]
        sample["__extras__"] = {name: extra.decode(raw) for name, extra in self.extras.items()}
        return sample


class _Rows:
    """The samples of one batch while it is made: bad ones are replaced, row by row, until every row has a good one."""

    def __init__(
        self, pipeline: TrainingPipeline, raws: Sequence[RawOrError], draws: Draws, substitute: Substitute
    ) -> None:
        self._pipeline, self._raws, self._draws, self._substitute = pipeline, raws, draws, substitute
        self._epochs, self._ids = draws.epochs.copy(), draws.ids.copy()
        self._attempts = [0] * len(raws)
        self._first: dict[int, SampleError] = {}
        self.boundary = Boundary(_Decode(pipeline.decode, pipeline.extras), pipeline.max_bytes)

    def draws(self, begin: int = 0, end: int | None = None) -> Draws:
        """Random numbers of the rows from ``begin`` to ``end``, as they stand."""
        return replace(self._draws, epochs=self._epochs[begin:end], ids=self._ids[begin:end])

    def views(self) -> tuple[Any, list[Sample]]:
        """What the views prepare of all rows, and a sample without its data for each row."""
        views, parts = self._pipeline.views, []
        most = self._pipeline.max_bytes if isinstance(views, Joining) else None
        samples: list[Sample] = []
        facts: list[Sample] = []
        begin, held = 0, 0
        for row, raw in enumerate(self._raws):
            sample = self._good(row, self.boundary(raw, int(self._ids[row]), self.draws(row, row + 1)))
            samples.append(sample)
            held += 0 if most is None else bytes_of(sample)
            if row + 1 == len(self._raws) or (most is not None and held >= most):
                parts.append(self._prepared(samples, begin))
                facts += map(_without_data, samples)
                begin, held, samples = row + 1, 0, []
        if len(parts) == 1:
            return parts[0], facts
        assert isinstance(views, Joining)
        return views.join(parts, self.draws()), facts

    def _prepared(self, samples: list[Sample], begin: int) -> Any:
        def prepare(some: list[Sample], rows: list[int]) -> Any:
            return self._pipeline.views.prepare(some, self.draws(begin + rows[0], begin + rows[-1] + 1))

        while True:
            ready, guilty = prepared(prepare, samples)
            if not guilty:
                return ready
            for index, error in guilty.items():
                self.boundary.refuse(error, int(self._ids[begin + index]))
                samples[index] = self._good(begin + index, error)

    def _good(self, row: int, sample: Sample | SampleError) -> Sample:
        """The sample, or the first good one that is drawn in its place."""
        while isinstance(sample, SampleError):
            first = self._first.setdefault(row, sample)
            if self._attempts[row] == ATTEMPTS:
                raise _hopeless(first, sample)
            raw, self._epochs[row], self._ids[row] = self._substitute(row, self._attempts[row])
            self._attempts[row] += 1
            sample = self.boundary(raw, int(self._ids[row]), self.draws(row, row + 1))
        return sample


def _hopeless(first: SampleError, last: SampleError) -> DataBudgetError:
    advice = (
        "The recipe may be one for another modality: 'foundation data inspect' shows what the shards hold"
        if first.reason == last.reason == "missing"
        else "Training on what is left would mean little: 'foundation data verify --decode' lists what is wrong"
    )
    return DataBudgetError(
        f"{first}. {ATTEMPTS} samples drawn in its place are bad too, the last being {last}. {advice}"
        + (f"\nWhere the first was met:\n{first.trace}" if first.trace else "")
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
        bad: each of them.
        names: [B] labels as the samples have them (a class number, a name, a list of these), None where there is none;
            ``labels`` has those that are numbers.
    """

    data: Tensor
    labels: Tensor
    keys: tuple[str, ...]
    ids: Tensor
    skipped: Mapping[str, int]
    bad: tuple[BadSample, ...] = ()
    names: tuple[Any, ...] = ()

    @property
    def messages(self) -> tuple[str, ...]:
        """What was wrong with each bad sample, for a person."""
        return tuple(map(str, self.bad))


@dataclass
class EvalPipeline:
    """Decoding and the one evaluation view of each sample.

    Args:
        decode: raw sample -> sample.
        prepare: samples -> [B, ...].
        max_bytes: as for :class:`TrainingPipeline`.
    """

    decode: Callable[[RawSample], Sample]
    prepare: Callable[[list[Sample]], Tensor]
    max_bytes: int = MAX_DECODED_BYTES

    def __call__(self, raws: Sequence[RawOrError], draws: Draws, plan: Plan, substitute: Substitute) -> EvalBatch:
        """Make a batch of the good samples; arguments as for :class:`TrainingPipeline`, which alone draws others."""
        boundary = Boundary(self.decode, self.max_bytes)
        data: list[Tensor] = []
        kept: list[Sample] = []

        decoded = (boundary(raw, number) for raw, number in zip(raws, draws.ids.tolist(), strict=True))
        good = (sample for sample in decoded if not isinstance(sample, SampleError))
        for piece in pieces(good, self.max_bytes, _AT_ONCE):
            views, samples, bad = good_views(self.prepare, piece)
            for sample, error in bad:
                boundary.refuse(error, int(sample["__id__"]))
            if views is not None:
                data.append(views)
            kept += map(_without_data, samples)
        return EvalBatch(
            data=torch.cat(data) if data else torch.empty(0),
            labels=labels_of(kept),
            keys=tuple(sample["__key__"] for sample in kept),
            ids=torch.tensor([int(sample["__id__"]) for sample in kept], dtype=torch.int64),
            skipped=dict(boundary.skipped),
            bad=tuple(boundary.bad),
            names=tuple(sample.get("label") for sample in kept),
        )
