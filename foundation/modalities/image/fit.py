"""Views of images for an encoder that was trained on another size or other statistics."""

from __future__ import annotations

from torch import nn

from foundation.modalities.fits import Resized, Restated
from foundation.modalities.image.evaluation import CropConfig


def fit(shape: tuple[int, ...], source: CropConfig, target: CropConfig) -> nn.Module:
    """Resized to the side that the encoder was trained on, and normalised by its statistics.

    Args:
        shape: (3, H, W) of a view.
        source: of the recipe.
        target: of the encoder.
    """
    steps: list[nn.Module] = [] if shape[1:] == (target.size, target.size) else [Resized((target.size, target.size))]
    if (source.mean, source.std) != (target.mean, target.std):
        steps.append(Restated((source.mean, source.std), (target.mean, target.std)))
    return nn.Sequential(*steps)
