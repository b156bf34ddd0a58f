"""How long a run is, by its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foundation.errors import UserError
from foundation.run.lines import is_number
from foundation.schedules import Clock, Duration

_MOST_STEPS = 1e15


def total_steps(recipe: Mapping[str, Any], lines: list[dict[str, Any]]) -> int | None:
    """Steps of the whole run, from the recipe and, for epochs, from what the metrics say about their length."""
    section = recipe.get("train")
    train: dict[str, Any] = section if isinstance(section, dict) else {}
    given = train.get("steps_per_epoch")
    steps_per_epoch: float | None = (
        given if given is not None and is_number(given) and 0 < given < _MOST_STEPS else None
    )
    logged = next((line for line in reversed(lines) if is_number(line.get("epoch")) and line["epoch"] > 0), None)
    if steps_per_epoch is None and logged is not None:
        steps_per_epoch = logged["step"] / logged["epoch"]
    try:
        length = Duration.from_yaml(train["length"]) if train.get("length") is not None else None
        if length is None or (length.unit == "epochs" and not steps_per_epoch):
            return None
        return length.steps(Clock(0, float(steps_per_epoch or 1)))
    except (UserError, OverflowError, ValueError):  # the recipe is shown as it is; to train checks it
        return None
