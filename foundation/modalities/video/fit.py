"""Views of clips for an encoder that was trained on another size, length or other statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.modalities.fits import Resized, Restated
from foundation.modalities.video.evaluation import EvaluationConfig


def fit(shape: tuple[int, ...], source: EvaluationConfig, target: EvaluationConfig) -> nn.Module:
    """As many frames as the encoder was trained on, chosen evenly; resized; normalised by its statistics.

    Args:
        shape: (3, frames, H, W) of a view.
        source: of the recipe.
        target: of the encoder.

    Raises:
        UserError: a view has fewer frames than the encoder wants, or is no clip.
    """
    if len(shape) != 4:
        raise UserError(f"it takes clips (3, frames, height, width), and the view is {shape}")
    if shape[1] < target.frames:
        raise UserError(
            f"it takes {target.frames} frames, and the view has {shape[1]}: set frames of the view to "
            f"{target.frames} or more"
        )
    steps: list[nn.Module] = [Frames(shape[1], target.frames)] if shape[1] > target.frames else []
    if shape[2:] != (target.size, target.size):
        steps.append(Resized((target.size, target.size)))
    if (source.mean, source.std) != (target.mean, target.std):
        steps.append(Restated((source.mean, source.std), (target.mean, target.std)))
    return nn.Sequential(*steps)


class Frames(nn.Module):
    """Some of the frames, spread evenly."""

    chosen: Tensor

    def __init__(self, there: int, wanted: int) -> None:
        super().__init__()
        middles = (torch.arange(wanted) + 0.5) * there / wanted
        self.register_buffer("chosen", middles.long(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[R, 3, T, H, W] -> [R, 3, wanted, H, W]."""
        return x.index_select(2, self.chosen)
