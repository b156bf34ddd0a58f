"""Inputs of encoders from lists of views, masks and so on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from foundation.encoders.protocol import EncoderInput


def inputs(
    views: Sequence[Tensor],
    masks: Sequence[Tensor | None] | None = None,
    *,
    drop: Sequence[int | None] | None = None,
    wanted: Sequence[Tensor | None] | None = None,
    valid: Sequence[Tensor | None] | None = None,
) -> list[EncoderInput]:
    """One input for each view; ``drop`` is the number of hidden tokens that each row of a view loses."""

    def of(values: Sequence[Any] | None) -> Sequence[Any]:
        return [None] * len(views) if values is None else values

    return [
        EncoderInput(
            view=view,
            mask=mask,
            mode="token" if hidden is None else "drop",
            hidden_per_row=hidden,
            wanted=places,
            valid=real,
        )
        for view, mask, hidden, places, real in zip(views, of(masks), of(drop), of(wanted), of(valid), strict=True)
    ]
