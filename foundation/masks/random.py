"""Single tokens, all places alike (He et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foundation.masks.counted import Counted, Rows, top_up


@dataclass(frozen=True, kw_only=True)
class Config(Counted):
    """Single tokens, each as likely as any other; the number masked is exact."""

    apart_from: tuple[str, ...] = ()  # type: ignore[misc]
    """Mask rules whose visible tokens this one hides, so that no token is visible under two of them and together they
    hide every token (DMJD, Ma et al. 2022). Where that takes more than ``ratio`` says, more are hidden."""

    def pattern(self, rows: Rows) -> NDArray[np.bool_]:
        """See :meth:`Counted.pattern`."""
        none = np.zeros((len(rows.wanted), rows.coordinates.shape[-2]), dtype=bool)
        return top_up(none if rows.must is None else rows.must, rows.wanted, rows.draws, rows.stream)
