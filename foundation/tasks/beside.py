"""What a task says where features that nobody had to train do as well as the model's."""

from __future__ import annotations

from collections.abc import Sequence

from foundation.tasks.base import Score
from foundation.tasks.values import shown


def outdone(scores: Sequence[Score]) -> tuple[str, ...]:
    """A sentence for each baseline that is no worse than the model in the headline.

    Args:
        scores: of an outcome; the first is the model's headline.
    """
    first = scores[0]
    if first.better is None:
        return ()
    sign = -1 if first.better == "less" else 1
    return tuple(
        f"{score.features!r} is no worse: {score.metric} {shown(score)} against {shown(first)} of the model"
        for score in scores
        if score.metric == first.metric and score.features != "model" and sign * (score.value - first.value) >= 0
    )
