"""Rules that say how many tokens of which rows are hidden; a kind adds which ones."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from foundation import counter
from foundation.errors import UserError
from foundation.masks.rule import Rule, SelfRule, stream_of, token_mask
from foundation.ranges import Length, PositiveShare, Rising, Share
from foundation.types import MASKING, TokenMask


@dataclass(frozen=True)
class Rows:
    """Rows of a view that get a mask.

    Attributes:
        coordinates: [N, d], or [rows, N, d] where tokens lie elsewhere in every row.
        wanted: [rows] how many tokens are to be hidden, at least one.
        draws: random numbers of the rows.
        stream: beginning of the names of those that may be taken.
        must: [rows, N] tokens that have to be hidden; only kinds with a key ``apart_from`` get any.
    """

    coordinates: NDArray[Any]
    wanted: NDArray[np.int64]
    draws: counter.Draws
    stream: str
    must: NDArray[np.bool_] | None = None


@dataclass(frozen=True, kw_only=True)
class Counted(Rule):
    """Masks of a drawn size over the patch tokens of a view.

    Two ways to say how much: ``probability`` and ``ratio`` (DINOv2: an exact share of the rows is masked, and their
    ratios are spread evenly over a range), or ``choices`` (iBOT: every row draws for itself).

    Attributes:
        by_coordinates: whether the pattern depends on where the tokens lie.
    """

    by_coordinates: ClassVar[bool] = False

    probability: Share = 0.5
    """Share of the rows (views x samples of the global batch) with a mask; exact, rounded down."""
    ratio: Annotated[tuple[Share, Share], Rising()] = (0.1, 0.5)
    """Smallest and largest share of masked tokens. The i-th masked row draws from the i-th of equal slices of it."""
    choices: Annotated[tuple[tuple[Share, Share], ...], Length(1, 1024)] | None = None
    """iBOT's rule instead: every row takes one of these (ratio, variation) at random and then a ratio uniform in
    [ratio - variation, ratio + variation]; ``[[0, 0], [0.3, 0.2]]`` in its ViT-S recipe. Overrides the two above."""
    tube: bool = False
    """Tokens with three coordinates (time, row, column): the mask is drawn over rows and columns and holds at all times
    (VideoMAE, Tong et al. 2022), so that a place cannot be copied from the moment before. Tokens of a single frame have
    one moment."""
    foreign: Share = 0.0
    """Mode ``input``: probability that a row's hidden parts show another sample of the micro-batch instead of zeros."""
    foreign_ratio: PositiveShare | None = None
    """Mode ``input``: share of hidden tokens in those rows (ASiT: 0.3); None: as in the others."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for ratio, variation in self.choices or ():
            if not 0.0 <= ratio - variation <= ratio + variation <= 1.0:
                raise UserError(f"masking: choices must stay in [0, 1], got {ratio} +- {variation}")
        if self.mode == "drop" and (self.probability != 1.0 or self.ratio[0] != self.ratio[1] or self.choices):
            raise UserError(
                "masking: mode 'drop' needs as many hidden tokens in every row: set probability: 1 and one ratio, such "
                "as ratio: [0.75, 0.75], and leave choices out"
            )
        if self.mode != "input" and (self.foreign or self.foreign_ratio is not None):
            raise UserError("masking: foreign and foreign_ratio need mode: input")

    @property
    def mean_share(self) -> float:
        """Expected share of masked tokens over all rows."""
        if self.choices is not None:
            return sum(ratio for ratio, _ in self.choices) / len(self.choices)
        return self.probability * sum(self.ratio) / 2.0

    def build(self, name: str = MASKING, view: str | None = None) -> CountedMasking:
        """The mask maker of one view; see :meth:`Rule.build`."""
        return CountedMasking(self, name, view or self.view)

    def shown(self: SelfRule) -> SelfRule:
        """See :meth:`Rule.shown`."""
        assert isinstance(self, Counted)
        probability = self.probability if self.choices else 1.0
        return replace(self, also=(), mode="token", foreign=0.0, foreign_ratio=None, probability=probability)

    @abstractmethod
    def pattern(self, rows: Rows) -> NDArray[np.bool_]:
        """[rows, N] which tokens are hidden."""


class CountedMasking:
    """See :class:`Counted` and :class:`foundation.data.pipeline.Masking`."""

    def __init__(self, config: Counted, name: str, view: str) -> None:
        self.config, self.view = config, view
        self.by_coordinates, self.apart_from = config.by_coordinates, tuple(config.apart_from)
        self._stream = stream_of(name, view)

    def __call__(
        self,
        coordinates: NDArray[Any],
        count: int,
        draws: counter.Draws,
        slots: NDArray[np.int64],
        group: int,
        step: int,
        must: NDArray[np.bool_] | None = None,
    ) -> TokenMask:
        """Masks of a batch; see :meth:`foundation.data.pipeline.Masking.__call__`."""
        slots = np.asarray(slots, dtype=np.int64)
        tube = None
        if self.config.tube:
            if coordinates.ndim != 2 or coordinates.shape[1] < 2:
                raise UserError(
                    "masking: tube needs tokens on a grid with a time, a row and a column: set masking.tube to false"
                )
            coordinates, first, tube = np.unique(coordinates[:, -2:], axis=0, return_index=True, return_inverse=True)
            must = None if must is None else must[:, first]
        tokens, samples = coordinates.shape[-2], len(slots)
        drawn = 1 if self.config.shared else count
        wanted = self._wanted(tokens, drawn, draws, slots, group, step)  # [drawn, B]
        sources = None
        if self.config.foreign:
            sources = self._sources(count, draws)
            if self.config.foreign_ratio is not None:
                shared = sources.reshape(count, -1)[:drawn] >= 0
                wanted = np.where(shared & (wanted > 0), int(tokens * self.config.foreign_ratio), wanted)
        masked = np.zeros((drawn, samples, tokens), dtype=bool)
        for view in range(drawn):
            rows = np.flatnonzero(wanted[view])
            if len(rows) == 0:
                continue
            own = coordinates if coordinates.ndim == 2 else coordinates[view * samples + rows]
            hidden = None if must is None else must[view * samples + rows]
            masked[view, rows] = self.config.pattern(
                Rows(own, wanted[view, rows], draws.take(rows), f"{self._stream}.{view}", hidden)
            )
        whole = (masked.repeat(count, axis=0) if drawn < count else masked).reshape(-1, tokens)
        return token_mask(whole if tube is None else whole[:, tube.reshape(-1)], None, self.config.mode, sources)

    def _sources(self, count: int, draws: counter.Draws) -> NDArray[np.int64]:
        """[count x B] row of another sample whose content is shown in hidden parts, -1 for zeros."""
        samples = len(draws.ids)
        parts = []
        for view in range(count):
            chance = draws.uniform(f"{self._stream}.{0 if self.config.shared else view}.foreign", 2)
            other = (np.arange(samples) + 1 + (chance[:, 1] * (samples - 1)).astype(np.int64)) % max(samples, 1)
            foreign = (chance[:, 0] < self.config.foreign) & (samples > 1)
            parts.append(np.where(foreign, view * samples + other, -1))
        return np.concatenate(parts)

    def _wanted(
        self, tokens: int, count: int, draws: counter.Draws, slots: NDArray[np.int64], group: int, step: int
    ) -> NDArray[np.int64]:
        """[count, B] how many tokens to mask in each row."""
        config = self.config
        jitter = np.stack([draws.uniform(f"{self._stream}.{view}.ratio", 2) for view in range(count)])  # [V, B, 2]
        if config.choices is not None:
            choices = np.asarray(config.choices)
            chosen = choices[(jitter[..., 0] * len(choices)).astype(np.int64)]  # [V, B, 2]
            ratio = chosen[..., 0] + (2.0 * jitter[..., 1] - 1.0) * chosen[..., 1]
            return (tokens * ratio).astype(np.int64)
        rows = count * group
        masked_rows = int(rows * config.probability)
        order = counter.permutation(draws.seed, 0, step, f"{self._stream}.rows", rows)
        slices = order[np.arange(count)[:, None] * group + slots[None]]  # [V, B]
        low, high = config.ratio
        ratio = low + (high - low) * (slices + jitter[..., 0]) / max(1, masked_rows)
        return np.where(slices < masked_rows, (tokens * ratio).astype(np.int64), 0)


def top_up(masks: NDArray[np.bool_], wanted: NDArray[np.int64], draws: counter.Draws, stream: str) -> NDArray[np.bool_]:
    """Mask further tokens at random until every row has the wanted number."""
    keys = draws.uniform(f"{stream}.single", masks.shape[1]) - masks  # masked ones come first
    ranks = np.empty_like(keys, dtype=np.int64)
    np.put_along_axis(ranks, np.argsort(keys, axis=1, kind="stable"), np.arange(masks.shape[1])[None], axis=1)
    return masks | (ranks < wanted[:, None])
