"""Figures as a person reads them."""

from __future__ import annotations

from foundation.tasks.base import Score


def shown(score: Score, value: float | None = None) -> str:
    """The value, or another of the same metric: shares in percent."""
    number = score.value if value is None else value
    return f"{100 * number:.1f} %" if score.share else f"{number:.4g}"


def interval(score: Score) -> str:
    """The 95 % interval likewise; empty where there is none."""
    if score.interval is None:
        return ""
    low, high = score.interval
    return f"{100 * low:.1f}-{100 * high:.1f}" if score.share else f"{low:.3g} to {high:.3g}"
