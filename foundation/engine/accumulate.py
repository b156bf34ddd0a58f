"""Forward and backward of one optimiser step: its micro-batches, with means over what the whole step has masked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from foundation.engine.feed import Feed
from foundation.parallel.collective import sums_over_ranks, world_size
from foundation.parallel.parallelize import Parallel
from foundation.parallel.placement import Placement
from foundation.types import Batch, TokenMask


@dataclass
class Accumulated:
    """Sums over the micro-batches of a step.

    Attributes:
        loss: mean over the micro-batches, on the device.
        parts: the same of each objective.
        figures: what the objectives have to show, each a mean over the items of all micro-batches that give it.
        keys: of the samples.
        skipped: bad samples that others stand in for.
    """

    loss: Tensor | float = 0.0
    parts: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    skipped: int = 0


@dataclass(frozen=True)
class _MaskedMean:
    """Masked rows and tokens of a view by a rule, averaged over the processes and micro-batches of a step."""

    rows: float
    tokens: float

    def told(self, mask: TokenMask) -> TokenMask:
        return replace(mask, mean_rows=self.rows, mean_tokens=self.tokens)


def accumulate(
    feed: Feed,
    parallel: Parallel,
    placement: Placement,
    step: int,
    rounds: int,
    *,
    masked: bool,
    watched: bool,
    see: Callable[[Batch], None],
) -> Accumulated:
    """Gradients of one optimiser step, added to those that the parameters have.

    Args:
        feed: gives the batches.
        parallel: the learner, as this process calls it.
        placement: device and precision.
        step: of the optimiser, from 0.
        rounds: micro-batches.
        masked: the recipe hides tokens.
        watched: the step's figures are logged.
        see: gets each batch.
    """
    total, figures = Accumulated(), Figures()
    means = _masked_means(feed, rounds) if masked else {}
    for number in range(rounds):
        batch = next(feed)
        if means:
            batch = replace(batch, masks={key: means[key].told(mask) for key, mask in batch.masks.items()})
        see(batch)
        total.skipped += sum(batch.skipped.values())
        total.keys += batch.keys
        with ExitStack() as stack:
            if number + 1 < rounds:
                stack.enter_context(parallel.without_sync())
            with torch.autocast(placement.device.type, placement.autocast, placement.autocast is not None):
                result = parallel.module(batch, step, watched)
            (result.loss / rounds).backward()
        total.loss = total.loss + result.loss.detach() / rounds
        for name, value in result.parts.items():
            total.parts[name] = total.parts.get(name, 0.0) + value / rounds
        figures.add(result.metrics, result.items)
    total.figures = figures.means()
    return total


class Figures:
    """Means of figures over micro-batches; everything stays on the device."""

    def __init__(self) -> None:
        self._seen: dict[str, list[tuple[Tensor, float]]] = {}

    def add(self, metrics: Mapping[str, Tensor], items: Mapping[str, int]) -> None:
        """Take those of a micro-batch, with the number of items that each is a mean of where they differ."""
        for name, value in metrics.items():
            self._seen.setdefault(name, []).append((value, float(items.get(name, 1))))

    def means(self) -> dict[str, Tensor]:
        """By name; of a figure that no micro-batch has an item for, what the last one says."""
        found = {}
        for name, seen in self._seen.items():
            total = sum(weight for _, weight in seen)
            counted = [(value, weight / total) for value, weight in seen if weight]
            found[name] = torch.stack([value * share for value, share in counted]).sum() if counted else seen[-1][0]
            if len(seen) == 1:
                found[name] = seen[0][0]
        return found


def _masked_means(feed: Feed, rounds: int) -> dict[tuple[str, str], _MaskedMean]:
    """How much is masked in the whole step, by (view, rule); empty where one batch is the whole step."""
    parts = rounds * world_size()
    if parts == 1:
        return {}
    own = feed.masked(rounds)
    counts = {(key, what): float(n) for key, masked in own.items() for what, n in asdict(masked).items()}
    total = sums_over_ranks(counts)
    return {key: _MaskedMean(total[key, "rows"] / parts, total[key, "tokens"] / parts) for key in own}
