"""The few shapes that travel along the road of the data. Nothing here knows a modality.

Shape letters used in the whole project: B batch (samples), R rows (views x samples), N patch tokens, D width,
K prototypes, C channels, H height, W width, T time, d coordinate dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")

Sample: TypeAlias = dict[str, Any]
"""One decoded sample: ``__key__``, ``__shard__``, ``__id__`` (its number in the data set), one entry per modality
(``image`` uint8 [3, H, W], ...), optionally ``label`` (a class number, a name, or a list of these) and ``__notes__`` (a
tuple of :class:`foundation.errors.Note`). In training also ``__index__`` and ``__extras__``, see :class:`Batch`."""


@dataclass(frozen=True)
class BadSample:
    """A sample that could not be used.

    Attributes:
        number: in the data set, unique among all sources.
        shard: path or address.
        key: in the shard; ``#PLACE`` where the shard as a whole could not be read.
        reason: one of ``foundation.errors.REASONS``.
        detail: what exactly is wrong, for a person.
        trace: where an exception that nobody had foreseen was raised; empty for others.
    """

    number: int
    shard: str
    key: str
    reason: str
    detail: str
    trace: str = ""

    def __str__(self) -> str:
        return f"{self.shard}: {self.key}: {self.reason}: {self.detail}"


@dataclass(frozen=True)
class View:
    """All views of one role in a batch, as one tensor.

    Rows are view-major: row ``v * B + b`` is view ``v`` of sample ``b``.

    Attributes:
        data: [R, ...] with R = count x B; for images [R, 3, H, W] float, normalised.
        modality: folder name in ``foundation/modalities``.
        role: ``global`` or ``local`` (a recipe may name others).
        count: views per sample.
        sample_ids: [R] int64, number of the source sample in its data set.
        geometry: [R, d, d + 1] affine map from view coordinates in [0, 1]^d (x before y) to the source frame
            (pixels, seconds or metres); lets any token of one view be paired with tokens of another. Points carry their
            coordinates in ``data``: there the map starts from those.
        valid: [R, N] bool, False where a patch token is padding; None where all are of the sample. (No modality pads
            its training views: shorter recordings are repeated, mirrored or given silence, which is heard.)
    """

    data: Tensor
    modality: str
    role: str
    count: int
    sample_ids: Tensor
    geometry: Tensor

    valid: Tensor | None = None

    def to(self, device: torch.device | str, non_blocking: bool = True) -> View:
        return moved(self, device, non_blocking)

    def pin_memory(self) -> View:
        return pinned(self)


@dataclass(frozen=True)
class ViewShape:
    """What is known of a view before there is any batch.

    Attributes:
        count: views per sample.
        shape: of one view without its row, such as (3, 224, 224).
        modality: folder name in ``foundation/modalities``.
        evaluation: the modality's ``EvaluationConfig`` that goes with it: its statistics, rate and front end.
    """

    count: int
    shape: tuple[int, ...]
    modality: str
    evaluation: Any = None


@dataclass(frozen=True)
class TokenMask:
    """Which patch tokens of a view a branch must not see, by one mask rule of the recipe.

    A token is visible, or hidden and asked for (``indices``), or hidden only: rules that make all rows alike long leave
    some tokens out of both.

    Attributes:
        masked: [R, N] bool, hidden.
        indices: [M] int64, hidden tokens that losses ask for, counted in the flattened [R * N], ascending. Made on the
            host, so that no step needs to ask the device how many there are.
        weights: [M] float32, 1 / (number of those of that row).
        visible_indices: [V] int64, what is not hidden, counted and made likewise.
        mode: how the encoder is kept from seeing them: ``token`` (a mask token in their place), ``drop`` (left out;
            each row then has as many visible ones, and as many in ``indices``) or ``input`` (their part of the view is
            overwritten).
        sources: [R] int64 with mode ``input``: row whose content is written there, -1 for zeros; None: zeros.
        mean_rows: rows with a token in ``indices``, averaged over the processes and micro-batches of the step; None:
            these.
        mean_tokens: length of ``indices``, averaged likewise.
    """

    masked: Tensor
    indices: Tensor
    weights: Tensor
    visible_indices: Tensor
    mode: Literal["token", "drop", "input"] = "token"
    sources: Tensor | None = None
    mean_rows: float | None = None
    mean_tokens: float | None = None

    def over_rows(self, total: Tensor) -> Tensor:
        """Mean over the rows with a masked token, of a sum over those here.

        Processes and micro-batches have different numbers of them, and the trainer averages their losses: so that each
        row counts alike, all divide by the same number.
        """
        if self.mean_rows is None:
            return total / self.masked.any(dim=1).sum().clamp(min=1)
        return total / (self.mean_rows or 1.0)

    def weighted(self, mean: Tensor) -> Tensor:
        """A mean over the masked tokens here, weighted by their number, for the reason that :meth:`over_rows` gives."""
        return mean if self.mean_tokens is None else mean * (len(self.indices) / (self.mean_tokens or 1.0))

    def to(self, device: torch.device | str, non_blocking: bool = True) -> TokenMask:
        return moved(self, device, non_blocking)

    def pin_memory(self) -> TokenMask:
        return pinned(self)

    @property
    def hidden_per_row(self) -> int:
        """Hidden tokens of each row, for mode ``drop``; known on the host."""
        return self.masked.shape[1] - len(self.visible_indices) // max(1, len(self.masked))

    def overwrite(self, data: Tensor, hidden: Tensor) -> Tensor:
        """A view as the student sees it with mode ``input``.

        Args:
            data: [R, ...].
            hidden: bool, broadcasts over ``data``: what lies in masked tokens.
        """
        if self.sources is None:
            return data.masked_fill(hidden, 0)
        shape = (-1, *[1] * (data.ndim - 1))
        other = data.index_select(0, self.sources.clamp(min=0)) * (self.sources >= 0).to(data.dtype).view(shape)
        return other.where(hidden, data)


MASKING = "masking"
"""Name of the mask rule that a recipe gives in its section ``masking``."""


@dataclass(frozen=True)
class Batch:
    """What the loader hands to the learner.

    Attributes:
        views: by name; the name is the role unless a recipe pairs modalities.
        masks: by the name of the view they belong to and that of the rule they were made by.
        keys: [B] keys of the samples, in row order.
        labels: [B] int64, -1 where a sample has none.
        position: place of the first sample in the stream of the whole run (the stream's only state).
        size: samples of this batch (places taken in the stream).
        index: [B] int64, number of the sample among all samples of all sources of the recipe, from 0 and without gaps:
            the same in every process and epoch, for what is kept per sample. Empty where the batch is of no stream.
        extras: what else the recipe asks for of each sample (``data.extras``), by name: [B, ...], or a tuple of B.
        skipped: bad samples by reason; others have taken their places.
        bad: each of them.
        notes: what is odd about a sample that is used all the same, the first of the batch for each reason.
        pending: set while views still wait for their device half (see ``modalities/*/views.py``).
    """

    views: Mapping[str, View]
    masks: Mapping[tuple[str, str], TokenMask]
    keys: tuple[str, ...]
    labels: Tensor
    position: int
    size: int
    index: Tensor = field(default_factory=lambda: _no_numbers())
    extras: Mapping[str, Tensor | tuple[Any, ...]] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    bad: tuple[BadSample, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    pending: Any = None

    @property
    def messages(self) -> tuple[str, ...]:
        """What was wrong with each bad sample, for a person."""
        return tuple(map(str, self.bad))

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        pending = None if self.pending is None else self.pending.to(device, non_blocking)
        return replace(moved(replace(self, pending=None), device, non_blocking), pending=pending)

    def pin_memory(self) -> Batch:
        pending = None if self.pending is None else self.pending.pin_memory()
        return replace(pinned(replace(self, pending=None)), pending=pending)


@dataclass(frozen=True)
class Features:
    """What an encoder says about a view.

    Attributes:
        cls: [R, D] class token after the final norm (a pooled feature for encoders without one).
        registers: [R, registers, D] after the final norm.
        patches: [R, N, D] after the final norm; [M, D] where the caller wanted those at M places only.
        taps: by tap name (``block.3``: tokens after block 3, prefix tokens included, not normed), as asked for.
        valid: [R, N] bool, False for padding; None when every token is real.
    """

    cls: Tensor
    registers: Tensor
    patches: Tensor
    taps: Mapping[str, Tensor] = field(default_factory=dict)
    valid: Tensor | None = None


def _no_numbers() -> Tensor:
    import torch

    return torch.empty(0, dtype=torch.int64)


def with_tensors(value: T, function: Callable[[Tensor], Tensor]) -> T:
    """A value of dataclasses, mappings, tuples and lists with a function's result in the place of each tensor.

    Whatever members such a class has or gets, none can be forgotten; parts without tensors stay the same objects.
    """
    import torch

    return _with_tensors(value, function, torch.Tensor)


def _with_tensors(value: Any, function: Callable[[Tensor], Tensor], tensor: type) -> Any:
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, tensor):
        return function(value)  # type: ignore[arg-type]
    if is_dataclass(value) and not isinstance(value, type):
        old = {part.name: getattr(value, part.name) for part in fields(value)}
        new = {name: _with_tensors(part, function, tensor) for name, part in old.items()}
        changed = {name: part for name, part in new.items() if part is not old[name]}
        return replace(value, **changed) if changed else value
    if isinstance(value, Mapping):
        parts = {name: _with_tensors(part, function, tensor) for name, part in value.items()}
        return parts if any(part is not value[name] for name, part in parts.items()) else value
    if isinstance(value, (tuple, list)):
        items = [_with_tensors(item, function, tensor) for item in value]
        return type(value)(items) if any(a is not b for a, b in zip(items, value, strict=True)) else value
    return value


def moved(value: T, device: torch.device | str, non_blocking: bool = True) -> T:
    """A value with all its tensors on a device."""
    return with_tensors(value, lambda tensor: tensor.to(device, non_blocking=non_blocking))


def pinned(value: T) -> T:
    """A value with all its tensors in page-locked memory."""
    return with_tensors(value, lambda tensor: tensor.pin_memory())


def each_tensor(value: Any, function: Callable[[Tensor], None]) -> None:
    """Call a function with every tensor of a value."""

    def seen(tensor: Tensor) -> Tensor:
        function(tensor)
        return tensor

    with_tensors(value, seen)
