"""How a person looks at images and at what an encoder makes of them: pixels, heat maps, PCA colours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.modalities.drawing import Picture, dimmed, heat_rgb, laid_over, pca_rgb, resize
from foundation.modalities.image.decode import decode as by_default
from foundation.modalities.image.evaluation import IMAGENET_MEAN, IMAGENET_STD
from foundation.types import Sample

__all__ = ["coloured", "heat_rgb", "mask_overlay", "of_raw", "overlay", "pca_rgb", "to_rgb"]

CELL = (96, 96)
"""Width and height of a sample on a contact sheet, pixels."""


def of_raw(raw: Mapping[str, Any], decode: Callable[[Any], Sample] | None = None) -> Picture:
    """A sample of a shard as a person looks at it: its pixels.

    Args:
        raw: members by extension.
        decode: reads it, as a recipe's views say; None: the decoder with its defaults.

    Returns:
        uint8 [H, W, 3], of any size.

    Raises:
        SampleError: it cannot be read.
    """

    return of_sample((decode or by_default)(raw))


def of_sample(sample: Sample) -> Picture:
    """A decoded sample as :func:`of_raw` draws it."""
    return to_rgb(sample["image"])


def to_rgb(
    image: Tensor | Picture, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Picture:
    """Pixels to look at.

    Args:
        image: a normalised view, float [3, H, W]; or a decoded image, uint8 [3, H, W] or [H, W, 3].
        mean: of the normalisation, per channel.
        std: of the normalisation, per channel.

    Returns:
        uint8 [H, W, 3].

    Raises:
        ValueError: not three channels.
    """
    tensor = torch.as_tensor(image).detach().cpu()
    if tensor.ndim != 3 or 3 not in (tensor.shape[0], tensor.shape[2]):
        raise ValueError(f"an image is [3, H, W] or [H, W, 3], not {tuple(tensor.shape)}")
    if tensor.shape[0] == 3:
        tensor = tensor.permute(1, 2, 0)
    if tensor.dtype != torch.uint8:
        tensor = tensor.float() * torch.tensor(std, dtype=torch.float32) + torch.tensor(mean, dtype=torch.float32)
        tensor = (tensor * 255.0).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(tensor.numpy())


def overlay(image: Tensor | Picture, heat: Tensor | NDArray[Any], strength: float = 0.6, **options: Any) -> Picture:
    """A map of numbers over an image (attention of one head, similarity to one token).

    Args:
        image: see :func:`to_rgb`.
        heat: [h, w], usually the token grid; enlarged smoothly to the image.
        strength: share of the map in the mixture.
        options: of :func:`to_rgb`.

    Returns:
        uint8 [H, W, 3].
    """
    return laid_over(to_rgb(image, **options), heat_rgb(heat), strength)


def mask_overlay(
    image: Tensor | Picture, masked: Tensor | NDArray[np.bool_], grid: tuple[int, int], **options: Any
) -> Picture:
    """Which patches a mask hides: those are dimmed to a fifth and tinted.

    Args:
        image: see :func:`to_rgb`.
        masked: [N] bool, row-major over the grid.
        grid: patches down and across.
        options: of :func:`to_rgb`.

    Returns:
        uint8 [H, W, 3].
    """
    return dimmed(to_rgb(image, **options), masked, grid)


def coloured(image: Tensor | Picture, colours: Picture, **options: Any) -> Picture:
    """Colours of tokens, as large as their image; each token stays a square.

    Args:
        image: see :func:`to_rgb`.
        colours: uint8 [rows, columns, 3] of the token grid.
        options: of :func:`to_rgb`.

    Returns:
        uint8 [H, W, 3].
    """
    height, width = to_rgb(image, **options).shape[:2]
    return resize(colours, height, width, smooth=False)
