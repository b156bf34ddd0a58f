"""The guard: stops a run before bad numbers or bad data can spoil it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from foundation.errors import DataBudgetError, NumericsError
from foundation.types import Batch


class DataGuard:
    """Counts bad samples over the whole run.

    Args:
        budget: bad samples that are tolerated.
        counts: those counted before a restart, by reason.
    """

    def __init__(self, budget: int, counts: Mapping[str, int] | None = None) -> None:
        self.budget = budget
        self.counts: Counter[str] = Counter(counts or {})

    def see(self, batch: Batch) -> list[str]:
        """Count a batch's bad samples and return what is to be told about them.

        Raises:
            DataBudgetError: when the budget is spent.
        """
        self.counts.update(batch.skipped)
        if self.counts.total() > self.budget:
            listed = ", ".join(f"{reason} {count}" for reason, count in sorted(self.counts.items()))
            latest = "; ".join(batch.messages)
            raise DataBudgetError(
                f"{self.counts.total()} bad samples ({listed}), more than data.max_bad_samples = {self.budget}. "
                f"Last: {latest}. Repair the shards, or raise data.max_bad_samples"
            )
        return list(batch.messages)


def check_finite(
    step: int, loss: float, norm: float, parts: Mapping[str, float], keys: tuple[str, ...], checkpoint: Path | None
) -> None:
    """Refuse a step whose loss or gradient is not finite, before the optimiser or a teacher has seen it.

    Raises:
        NumericsError: naming the step, the parts of the loss and the last good checkpoint.
    """
    if math.isfinite(loss) and math.isfinite(norm):
        return
    listed = ", ".join(f"{name} {value:g}" for name, value in parts.items())
    good = f"last good checkpoint: {checkpoint}" if checkpoint else "there is no checkpoint yet"
    raise NumericsError(
        f"step {step}: loss {loss:g} ({listed}), gradient norm {norm:g}: not finite. The optimiser and the teacher "
        f"were not touched; {good}. First keys of the batch: {', '.join(keys[:8])}. "
        "Likely knobs: a lower learning rate, a longer warm-up, precision float32"
    )
