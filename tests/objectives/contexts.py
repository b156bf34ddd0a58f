"""Contexts that objectives are built in, without branches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foundation.branches.base import Offer
from foundation.objectives.base import ObjectiveContext
from foundation.schedules import Clock
from foundation.types import MASKING


def context(clock: Clock, heads: Mapping[str, Any], width: int, encoder: Any = None) -> ObjectiveContext:
    """Of a student and a teacher with the same heads; global views are masked."""
    offer = Offer(width, heads, encoder)
    return ObjectiveContext(clock, {"student": offer, "teacher": offer}, {MASKING: ("global",)})
