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


class FramesOf(Protocol):
    """What ``fit.py`` of a modality that consists of frames has besides."""

    def frames(self, shape: tuple[int, ...], every: int) -> tuple[nn.Module, str, tuple[int, ...]]:
        """Module that takes views [R, *shape] apart into every n-th of their frames [R, frames, ...]; modality and
        shape of a frame.

        Raises:
            UserError: the views have no so many frames.
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
    return _room(modality).fit(shape, source, target)


def fit_frames(modality: str, wanted: str, shape: tuple[int, ...], source: Any, target: Any, every: int) -> nn.Module:
    """Module between views that consist of frames and an encoder of single ones: [R, *shape] -> [R, frames, ...].

    Args:
        modality: of the views.
        wanted: modality of the encoder.
        shape: of one view.
        source: ``EvaluationConfig`` that goes with the views; its statistics are those of the frames.
        target: the one that goes with the encoder.
        every: so many frames apart.

    Raises:
        UserError: the views have no frames, or frames cannot be made what the encoder takes.
    """
    room = _room(modality)
    if "frames" not in vars(room):
        raise UserError(f"it is to see frames one by one, and views of {modality} have none: leave frames out")
    apart, kind, frame = cast(FramesOf, room).frames(shape, every)
    if kind != wanted:
        raise UserError(f"it takes {wanted}, and frames of {modality} are {kind}")
    return ByFrame(apart, _room(kind).fit(frame, source, target))


def _room(modality: str) -> Fits:
    name = f"foundation.modalities.{modality}.fit"
    try:
        return cast(Fits, importlib.import_module(name))
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UserError(f"nothing makes views of {modality} fit another encoder (there is no {name})") from error


class ByFrame(nn.Module):
    """Views taken apart into frames, each of which is made to fit.

    Args:
        apart: [R, ...] -> [R, frames, ...].
        each: for frames in the place of rows.
    """

    def __init__(self, apart: nn.Module, each: nn.Module) -> None:
        super().__init__()
        self.apart, self.each = apart, each

    def forward(self, x: Tensor) -> Tensor:
        """[R, ...] -> [R, frames, ...]."""
        frames: Tensor = self.apart(x)
        fitted: Tensor = self.each(frames.flatten(0, 1))
        return fitted.unflatten(0, frames.shape[:2])


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
