"""The few shapes that travel along the road of the data. Nothing here knows a modality.

Shape letters used in the whole project: B batch (samples), R rows (views x samples), N patch tokens, D width,
K prototypes, C channels, H height, W width, T time, d coordinate dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Sample: TypeAlias = dict[str, Any]
"""One decoded sample: ``__key__``, ``__shard__``, ``__id__`` (its number in the data set), one entry per modality
(``image`` uint8 [3, H, W], ...), optionally ``label`` (a class number, a name, or a list of these) and ``__notes__`` (a
tuple of :class:`foundation.errors.Note`)."""


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
    """

    data: Tensor
    modality: str
    role: str
    count: int
    sample_ids: Tensor
    geometry: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = True) -> View:
        return replace(
            self,
            data=self.data.to(device, non_blocking=non_blocking),
            sample_ids=self.sample_ids.to(device, non_blocking=non_blocking),
            geometry=self.geometry.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True)
class TokenMask:
    """Which patch tokens of a view the student must not see.

    Attributes:
        masked: [R, N] bool.
        indices: [M] int64, places of the masked tokens in the flattened [R * N], ascending. Made on the host, so that
            no step needs to ask the device how many there are.
        weights: [M] float32, 1 / (number of masked tokens of that row).
        mode: how the student's encoder is kept from seeing them: ``token`` (a mask token in their place), ``drop``
            (left out; each row then has the same number of them) or ``input`` (their part of the view is overwritten).
        sources: [R] int64 with mode ``input``: row whose content is written there, -1 for zeros; None: zeros.
        mean_rows: rows with a masked token, averaged over the processes and micro-batches of the step; None: these.
        mean_tokens: masked tokens, averaged likewise.
    """

    masked: Tensor
    indices: Tensor
    weights: Tensor
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
        return self._each(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> TokenMask:
        return self._each(lambda x: x.pin_memory())

    def _each(self, function: Callable[[Tensor], Tensor]) -> TokenMask:
        return replace(
            self,
            masked=function(self.masked),
            indices=function(self.indices),
            weights=function(self.weights),
            sources=None if self.sources is None else function(self.sources),
        )

    @property
    def hidden_per_row(self) -> int:
        """Masked tokens of each row, for mode ``drop``; known on the host."""
        return len(self.indices) // max(1, len(self.masked))

    @property
    def visible_indices(self) -> Tensor:
        """[V] int64, places of the tokens that are not masked."""
        return (~self.masked).flatten().nonzero()[:, 0]

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


@dataclass(frozen=True)
class Batch:
    """What the loader hands to the learner.

    Attributes:
        views: by name; the name is the role unless a recipe pairs modalities.
        masks: by view and mask rule.
        keys: [B] keys of the samples, in row order.
        labels: [B] int64, -1 where a sample has none.
        position: place of the first sample in the stream of the whole run (the stream's only state).
        size: samples of this batch (places taken in the stream).
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
    skipped: Mapping[str, int] = field(default_factory=dict)
    bad: tuple[BadSample, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    pending: Any = None
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def messages(self) -> tuple[str, ...]:
        """What was wrong with each bad sample, for a person."""
        return tuple(map(str, self.bad))

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        return replace(
            self,
            views={k: v.to(device, non_blocking) for k, v in self.views.items()},
            masks={k: m.to(device, non_blocking) for k, m in self.masks.items()},
            labels=self.labels.to(device, non_blocking=non_blocking),
            pending=None if self.pending is None else self.pending.to(device, non_blocking),
        )

    def pin_memory(self) -> Batch:
        def pin(x: Any) -> Any:
            return x.pin_memory()

        return replace(
            self,
            views={
                k: replace(v, data=pin(v.data), sample_ids=pin(v.sample_ids), geometry=pin(v.geometry))
                for k, v in self.views.items()
            },
            masks={k: m.pin_memory() for k, m in self.masks.items()},
            labels=pin(self.labels),
            pending=None if self.pending is None else self.pending.pin_memory(),
        )


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
