"""Clouds for an encoder that was trained elsewhere."""

from __future__ import annotations

from torch import nn

from foundation.errors import UserError
from foundation.modalities.points.evaluation import EvaluationConfig


def fit(shape: tuple[int, ...], source: EvaluationConfig, target: EvaluationConfig) -> nn.Module:
    """The same clouds: an encoder takes any number of points.

    Args:
        shape: of a view.
        source: of the recipe.
        target: of the encoder.

    Raises:
        UserError: other numbers for each point, or another unit of length.
    """
    for name in ("channels", "normalise"):
        if getattr(source, name) != getattr(target, name):
            raise UserError(
                f"it takes clouds with {name} {getattr(target, name)}, and the views have {getattr(source, name)}: set "
                f"views.{name} to it"
            )
    return nn.Sequential()
