"""Views of clips for an encoder that was trained on another size, length or other statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.modalities.fits import Resized, Restated
from foundation.modalities.video.evaluation import EvaluationConfig

TOLERANCE = 0.99
"""Frame rates of files are not exact."""


def fit(shape: tuple[int, ...], source: EvaluationConfig, target: EvaluationConfig) -> nn.Module:
    """As many frames as the encoder was trained on, chosen evenly; resized; normalised by its statistics.

    Args:
        shape: (3, frames, H, W) of a view.
        source: of the recipe.
        target: of the encoder.

    Where both are known to last a number of seconds, the frames lie as far apart as those that the encoder was trained
    on, in the middle of the view; else they are spread over all of it.

    Raises:
        UserError: a view has fewer frames than the encoder wants, or fewer in a second, or is shorter, or is no clip.
    """
    if len(shape) != 4:
        raise UserError(f"it takes clips (3, frames, height, width), and the view is {shape}")
    _check_rate(shape[1], source, target)
    if shape[1] < target.frames:
        raise UserError(
            f"it takes {target.frames} frames, and the view has {shape[1]}: set frames of the view to "
            f"{target.frames} or more"
        )
    share = target.seconds / source.seconds if target.seconds and source.seconds else 1.0
    choice = Frames(shape[1], target.frames, share)
    steps: list[nn.Module] = [choice] if shape[1] > target.frames else []
    if shape[2:] != (target.size, target.size):
        steps.append(Resized((target.size, target.size)))
    if (source.mean, source.std) != (target.mean, target.std):
        steps.append(Restated((source.mean, source.std), (target.mean, target.std)))
    return nn.Sequential(*steps)


def _check_rate(frames: int, source: EvaluationConfig, target: EvaluationConfig) -> None:
    """Refuse views that do not show enough moments of a second, or too few seconds, where that is known."""
    read = source.decode.rate
    if target.seconds is None:  # it was shown whole videos, or spans of any length, out of what was read of the files
        known = target.decode.rate
        if read is not None and known is not None and read < known * TOLERANCE:
            raise UserError(
                f"it was trained on files read at {known:g} frames in a second, and {read:g} are read for the views: "
                f"set decode.rate of the views to {known:g} or more"
            )
        return
    rate = target.frames / target.seconds
    if read is not None and read < rate * TOLERANCE:
        raise UserError(
            f"it takes {rate:g} frames in a second, and {read:g} are read from the files: set decode.rate of the views "
            f"to {rate:g} or more"
        )
    if source.seconds is None:
        return
    if source.seconds < target.seconds * TOLERANCE:
        raise UserError(
            f"it takes clips of {target.seconds:g} s, and the view lasts {source.seconds:g} s: give the view frames / "
            f"rate of {target.seconds:g} s or more"
        )
    if frames / source.seconds < rate * TOLERANCE:
        raise UserError(
            f"it takes {rate:g} frames in a second, and the view has {frames / source.seconds:g}: set its rates to "
            f"[{rate:g}] or more"
        )


def frames(shape: tuple[int, ...], every: int) -> tuple[nn.Module, str, tuple[int, ...]]:
    """Clips taken apart: every n-th frame [R, frames, 3, H, W] from the first on; a frame is an image.

    Args:
        shape: (3, frames, H, W) of a view.
        every: n.

    Raises:
        UserError: a view has no so many frames, or is no clip.
    """
    if len(shape) != 4:
        raise UserError(f"it sees clips (3, frames, height, width) frame by frame, and the view is {shape}")
    if every > shape[1]:
        raise UserError(f"frames_every is {every}, and the view has {shape[1]} frames: set it to {shape[1]} or less")
    return Apart(every), "image", (shape[0], *shape[2:])


class Apart(nn.Module):
    """Every n-th frame of clips."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every

    def forward(self, x: Tensor) -> Tensor:
        """[R, 3, T, H, W] -> [R, frames, 3, H, W]."""
        return x[:, :, :: self.every].transpose(1, 2)


class Frames(nn.Module):
    """Some of the frames, spread evenly.

    Args:
        there: frames of a view.
        wanted: frames of it that are kept.
        share: of the view, in its middle, that they are spread over.
    """

    chosen: Tensor

    def __init__(self, there: int, wanted: int, share: float = 1.0) -> None:
        super().__init__()
        middles = (torch.arange(wanted) + 0.5) * there * share / wanted + there * (1 - share) / 2
        self.register_buffer("chosen", middles.long(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[R, 3, T, H, W] -> [R, 3, wanted, H, W]."""
        return x.index_select(2, self.chosen)
