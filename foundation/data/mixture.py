"""Which source the sample at a place of the stream comes from: a pure function, so a mixture resumes like one source.

The sources are split off one after the other, the heaviest first: of the N samples that are left, a source with the
share f of the remaining weight gets floor(N f + 1/2). Counts can then never fall, whatever the weights do, and stay
within (1 + 1/2 + ... + 1/S) / 2 samples of what S constant weights ask for; the largest remainder, the usual rule,
would now and then take a sample back. Everything is integer arithmetic: every machine finds the same counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from foundation import counter
from foundation.errors import UserError
from foundation.ranges import Positive, Range, check
from foundation.schedules import Clock, Schedule

_BITS = 28  # shares are multiples of 2^-28: fine enough for 100 million samples, and products stay below 2^63
_ONE = 1 << _BITS
_MOST_SHARES = 10**8  # steps times sources of a schedule of weights: 800 MB


@dataclass(frozen=True, kw_only=True)
class Config:
    """One source of a mixture."""

    shards: tuple[str, ...]
    """Its shards: paths, globs or brace patterns."""
    weight: Annotated[Schedule, Range(0, 1e9)] | None = None
    """Its weight, a number or a schedule, relative to the others'; None: its size."""
    tokens_per_sample: Positive | None = None
    """Tokens that a sample gives, for ``weigh_by: tokens``; None: counted from the views."""

    def __post_init__(self) -> None:
        if not self.shards:
            raise UserError("a source has no shards: give paths, globs or brace patterns")
        check(self)


def shares(
    sources: Mapping[str, Config],
    sizes: Mapping[str, int],
    clock: Clock,
    *,
    weigh_by: Literal["samples", "tokens"] = "samples",
    temperature: float = 1.0,
    tokens: Mapping[str, float] | None = None,
) -> NDArray[np.float64]:
    """Share of the samples that each source gets.

    A weight w counts as w^(1 / temperature), the sampling of multilingual pretraining (Devlin et al. 2018, Arivazhagan
    et al. 2019): 1 as given, larger is more even. Weighed by tokens, it is then divided by the tokens of a sample.

    Args:
        sources: by name.
        sizes: samples of each.
        clock: of the run, for schedules.
        weigh_by: what the weights are shares of.
        temperature: more than 0.
        tokens: of a sample by source, where the source does not state them.

    Returns:
        [S], or [steps, S] when a weight follows a schedule; each row sums to 1.

    Raises:
        UserError: no source has a weight above 0 at some step, or a number of tokens is missing.
    """
    scheduled = any(s.weight is not None and s.weight.to_yaml() is None for s in sources.values())
    steps = clock.total_steps if scheduled else 1
    if steps * len(sources) > _MOST_SHARES:
        raise UserError(
            f"data.sources: weights that follow schedules are worked out for every step, and {steps:,} steps of "
            f"{len(sources)} sources are more than {_MOST_SHARES:,}: use constant weights or a shorter run"
        )
    columns = []
    for name, source in sources.items():
        per_sample = source.tokens_per_sample or (tokens or {}).get(name)
        if weigh_by == "tokens" and not per_sample:
            raise UserError(f"data.weigh_by is tokens: give data.sources.{name}.tokens_per_sample")
        per_sample = float(per_sample or 1) if weigh_by == "tokens" else 1.0
        if source.weight is None:
            weights = np.full(steps, sizes[name] * per_sample)
        else:
            weights = source.weight.values(steps, clock)
        columns.append(np.maximum(weights, 0.0))
        columns[-1] = columns[-1] ** (1.0 / temperature) / per_sample
    table = np.stack(columns, axis=1)
    empty = np.flatnonzero(table.sum(axis=1) <= 0)
    if len(empty):
        raise UserError(f"at step {empty[0]:,} no source of data.sources has a weight above 0: nothing to read")
    table = table / table.sum(axis=1, keepdims=True)
    return table if scheduled else table[0]


class Mixture:
    """Which source is at which place.

    Args:
        shares: [S], or [T, S] for the first T global batches; the last row holds from there on.
        group: samples of a global batch.
        seed: of the run.
        mix: ``sample`` spreads the sources over every global batch; ``batch`` draws each from one source.

    Raises:
        UserError: an impossible size.
    """

    def __init__(
        self,
        shares: NDArray[np.float64] | Sequence[float],
        group: int,
        seed: int,
        mix: Literal["sample", "batch"] = "sample",
    ) -> None:
        table = np.atleast_2d(np.asarray(shares, dtype=np.float64))
        self.group, self.seed, self.mix, self.num_sources = group, seed, mix, table.shape[1]
        self._unit = group if mix == "sample" else 1
        if len(table) * self._unit >= 1 << (62 - _BITS):
            raise UserError("weights that follow a schedule work up to 17 billion samples: use constant weights")
        self._order = np.argsort(-table.mean(axis=0), kind="stable")
        self._parts = _parts(table[:, self._order])
        self._table = self._accumulate() if len(table) > 1 else np.zeros((1, self.num_sources), dtype=np.int64)
        self._block: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None

    def counts(self, steps: NDArray[np.int64] | Sequence[int]) -> NDArray[np.int64]:
        """Samples of each source before some global batches.

        Args:
            steps: [K] number of the global batch.

        Returns:
            [K, S] int64; rows sum to ``steps * group``.
        """
        scale = self.group // self._unit
        return self._units(np.asarray(steps, dtype=np.int64)) * scale

    def locate(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Source and place in that source's own stream.

        Args:
            positions: [B] int64 of the whole stream, in any order.

        Returns:
            Two times [B] int64.
        """
        positions = np.asarray(positions, dtype=np.int64)
        steps, slots = np.divmod(positions, self.group)
        sources, indices = np.empty_like(positions), np.empty_like(positions)
        for step in np.unique(steps).tolist():
            rows = np.flatnonzero(steps == step)
            of_slot, place_of_slot = self._batch(step)
            sources[rows], indices[rows] = of_slot[slots[rows]], place_of_slot[slots[rows]]
        return sources, indices

    def _batch(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Source and place of every slot of a global batch; a source's samples keep their order."""
        if self._block is None or self._block[0] != step:
            before, after = self.counts([step, step + 1])
            labels = np.repeat(np.arange(self.num_sources), after - before)
            if self.mix == "sample":
                labels = labels[counter.permutation(self.seed, 0, step, "mixture.slots", self.group)]
            by_source = np.argsort(labels, kind="stable")
            indices = np.empty(self.group, dtype=np.int64)
            first = np.cumsum(after - before) - (after - before)
            indices[by_source] = before[labels[by_source]] + np.arange(self.group) - first[labels[by_source]]
            self._block = (step, labels, indices)
        return self._block[1], self._block[2]

    def _units(self, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        known = np.minimum(steps, len(self._table) - 1)
        return self._table[known] + self._constant((steps - known) * self._unit)

    def _constant(self, left: NDArray[np.int64]) -> NDArray[np.int64]:
        """[K, S] counts among the first ``left`` [K] by the last row of shares."""
        result = np.empty((len(left), self.num_sources), dtype=np.int64)
        for source, part in zip(self._order.tolist(), self._parts[-1].tolist(), strict=True):
            whole, rest = np.divmod(left, _ONE)
            result[:, source] = whole * part + ((rest * part + _ONE // 2) >> _BITS)
            left = left - result[:, source]
        return result

    def _accumulate(self) -> NDArray[np.int64]:
        """[T + 1, S] counts before each global batch of the schedule."""
        left = np.full(len(self._parts), self._unit, dtype=np.int64)
        table = np.zeros((len(self._parts) + 1, self.num_sources), dtype=np.int64)
        for column, source in enumerate(self._order.tolist()):
            table[1:, source] = (np.cumsum(left * self._parts[:, column]) + _ONE // 2) >> _BITS
            left = left - np.diff(table[:, source])
        return table


def _parts(table: NDArray[np.float64]) -> NDArray[np.int64]:
    """[T, S] each source's share of the weight that is left to it and those after it, in units of 2^-28."""
    left = np.cumsum(table[:, ::-1], axis=1)[:, ::-1]
    parts = np.divide(table, left, out=np.zeros_like(table), where=left > 0)
    parts[:, -1] = 1.0
    return np.rint(np.clip(parts, 0.0, 1.0) * _ONE).astype(np.int64)
