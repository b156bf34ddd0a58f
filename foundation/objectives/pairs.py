"""Pairs of views of one sample: which of the teacher's views a student's view is held against."""

from __future__ import annotations

from torch import Tensor

from foundation.errors import UserError
from foundation.objectives.base import ObjectiveContext


def check_pair(context: ObjectiveContext, view: str, teacher_view: str) -> None:
    """Refuse views whose numbers do not go together.

    Args:
        context: of the objective.
        view: name of the student's view.
        teacher_view: of the teacher's.

    Raises:
        UserError: neither as many of both for a sample, nor one of the teacher's.
    """
    if view not in context.views or teacher_view not in context.views:
        return  # it is refused elsewhere, in words of its own
    own, other = context.views[view].count, context.views[teacher_view].count
    if other not in (1, own):
        raise UserError(
            f"a sample has {own} views {view!r} and {other} views {teacher_view!r}: number k is paired with number k, "
            f"so give teacher_view {own} views or 1"
        )


def partners(rows: Tensor, views: int, wanted: int) -> Tensor:
    """The teacher's row for each of the student's.

    Args:
        rows: [views * B, ...] of the teacher, view-major.
        views: of the teacher for a sample: as many as the student's, view k with view k (which show one stretch of time
            where they are paired), or one, for all.
        wanted: views of the student for a sample.

    Returns:
        [wanted * B, ...], view-major.
    """
    return rows if views == wanted else rows.repeat(wanted, *[1] * (rows.ndim - 1))
