"""Contexts that objectives are built in, without branches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foundation.branches.base import Offer
from foundation.objectives.base import ObjectiveContext
from foundation.schedules import Clock
from foundation.types import MASKING


def context(
    clock: Clock,
    heads: Mapping[str, Any],
    width: int,
    encoder: Any = None,
    masked: tuple[str, ...] = ("global",),
) -> ObjectiveContext:
    """Of a student and a teacher with the same heads.

    Args:
        clock: of the run.
        heads: Configs by name.
        width: of the features.
        encoder: of both, where an objective looks at it.
        masked: views that the recipe's masking hides parts of.
    """
    offer = Offer(width, heads, encoder)
    return ObjectiveContext(clock, {"student": offer, "teacher": offer}, {MASKING: masked} if masked else {})
