"""Spectrograms for an encoder that was trained on other statistics of the same front end."""

from __future__ import annotations

from dataclasses import fields

from torch import nn

from foundation.errors import UserError
from foundation.modalities.audio.evaluation import EvaluationConfig
from foundation.modalities.fits import Restated


def fit(shape: tuple[int, ...], source: EvaluationConfig, target: EvaluationConfig) -> nn.Module:
    """Normalised by the encoder's statistics.

    Args:
        shape: (1, mels, frames) of a view.
        source: of the recipe.
        target: of the encoder.

    Raises:
        UserError: the front ends differ: a spectrogram cannot be made into one of another rate or other bands.
    """
    own, wanted = source.front_end, target.front_end
    for name in (item.name for item in fields(own) if item.name not in ("mean", "std")):
        if getattr(own, name) != getattr(wanted, name):
            raise UserError(
                f"it takes spectrograms with {name} {getattr(wanted, name)}, and the views have {getattr(own, name)}: "
                f"set views.front_end.{name} to it"
            )
    if (own.mean, own.std) == (wanted.mean, wanted.std):
        return nn.Sequential()
    return Restated(([own.mean], [own.std]), ([wanted.mean], [wanted.std]))
