"""What pictures of the report need beside their pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def unit_range(values: NDArray[np.floating], low: float = 1, high: float = 99) -> NDArray[np.floating]:
    """Values scaled so that two percentiles become 0 and 1, cut there."""
    a, b = np.percentile(values, [low, high])
    return np.clip((values - a) / max(b - a, 1e-12), 0, 1)


def options_of(evaluation: Any) -> dict[str, Any]:
    """What a picture file needs to know of an evaluation view: its normalisation, the axis that points upwards."""
    evaluation = getattr(evaluation, "own", evaluation)
    return {key: getattr(evaluation, key) for key in ("mean", "std", "up") if hasattr(evaluation, key)}
