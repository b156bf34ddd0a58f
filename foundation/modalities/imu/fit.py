"""Windows of inertial sensors for an encoder that was trained on another rate or other statistics."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.modalities.fits import Restated
from foundation.modalities.imu.evaluation import EvaluationConfig


def fit(shape: tuple[int, ...], source: EvaluationConfig, target: EvaluationConfig) -> nn.Module:
    """Resampled to the encoder's rate, and normalised by its statistics.

    Args:
        shape: (channels, steps) of a view.
        source: of the recipe.
        target: of the encoder.

    Raises:
        UserError: the channels differ, or the encoder's rate is the higher one.
    """
    if len(source.mean) != len(target.mean):
        raise UserError(f"it takes {len(target.mean)} channels, and the views have {len(source.mean)}")
    if target.rate > source.rate:
        raise UserError(f"it takes {target.rate:g} Hz, and the views have {source.rate:g} Hz: set views.rate to it")
    steps: list[nn.Module] = []
    if target.rate != source.rate:
        steps.append(Resampled(round(shape[1] * target.rate / source.rate)))
    if (source.mean, source.std) != (target.mean, target.std):
        steps.append(Restated((source.mean, source.std), (target.mean, target.std)))
    return nn.Sequential(*steps)


class Resampled(nn.Module):
    """Fewer steps over the same time: the mean over each of them."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        """[R, C, T] -> [R, C, steps]."""
        return F.interpolate(x[:, :, None], size=(1, self.steps), mode="bilinear", antialias=True)[:, :, 0]
