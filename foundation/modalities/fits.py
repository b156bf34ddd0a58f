"""How a view that was made for one encoder becomes the input of another, trained on other statistics or another size.

Views hold the numbers of their modality after the recipe's statistics (mean and deviation are taken off, in the last
pass over the pixels, where it costs nothing). A frozen encoder has statistics of its own: what lies between the two is
undone and done anew.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation.errors import UserError


class Fits(Protocol):
    """What ``foundation/modalities/NAME/fit.py`` has."""

    def fit(self, shape: tuple[int, ...], source: Any, target: Any) -> nn.Module:
        """Module that takes views [R, *shape] made for ``source`` and gives those that ``target`` wants.

        Raises:
            UserError: it cannot be done; says which size, rate or setting differs.
        """


def fit(modality: str, wanted: str, shape: tuple[int, ...], source: Any, target: Any) -> nn.Module:
    """Module between the views of a recipe and an encoder that was trained elsewhere.

    Args:
        modality: of the views.
        wanted: modality of the encoder.
        shape: of one view.
        source: the modality's ``EvaluationConfig`` that goes with the views.
        target: the one that goes with the encoder.

    Raises:
        UserError: the views cannot be made what the encoder takes.
    """
    if modality != wanted:
        raise UserError(f"it takes {wanted}, and the views are {modality}")
    name = f"foundation.modalities.{modality}.fit"
    try:
        module = cast(Fits, importlib.import_module(name))
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UserError(f"nothing makes views of {modality} fit another encoder (there is no {name})") from error
    return module.fit(shape, source, target)


class Restated(nn.Module):
    """Values with other statistics: ``(x * std + mean - new mean) / new std``, channel by channel on axis 1.

    Args:
        old: mean and deviation of each channel that have been taken off.
        new: those that are to be.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, old: tuple[Sequence[float], Sequence[float]], new: tuple[Sequence[float], Sequence[float]]):
        super().__init__()
        means, deviations = (
            torch.tensor([before, after], dtype=torch.float64) for before, after in zip(old, new, strict=True)
        )
        scale = deviations[0] / deviations[1]
        self.register_buffer("scale", scale.float(), persistent=False)
        self.register_buffer("shift", ((means[0] - means[1]) / deviations[1]).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[R, C, ...] of the same shape."""
        shape = (-1, *[1] * (x.ndim - 2))
        return torch.addcmul(self.shift.view(shape), x, self.scale.view(shape))


class Resized(nn.Module):
    """Pictures of another size, bicubic and antialiased; clips frame by frame.

    Args:
        size: rows and columns.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """[R, C, ..., H, W] -> [R, C, ..., *size]."""
        if tuple(x.shape[-2:]) == self.size:
            return x
        flat = x.flatten(0, -4) if x.ndim > 4 else x  # [rows, 3, H, W] or, of clips, [R * C, T, H, W]
        resized = F.interpolate(flat, size=self.size, mode="bicubic", antialias=True)
        return resized.reshape(*x.shape[:-2], *self.size)
