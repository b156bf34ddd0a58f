"""How a person looks at images and at what an encoder makes of them: pixels, sheets, heat maps, PCA colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.modalities.image.views import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from PIL.Image import Image

Picture = NDArray[np.uint8]
"""[H, W, 3] uint8."""
CELL = (96, 96)
"""Width and height of a sample on a contact sheet, pixels."""

# Anchors of a perceptually even dark-to-bright scale (near matplotlib's "inferno"), so that no plot library is needed.
_HEAT = np.array(
    [(0, 0, 4), (51, 10, 95), (120, 28, 109), (188, 55, 84), (237, 105, 37), (252, 176, 20), (252, 255, 164)],
    np.float64,
)


def of_raw(raw: Mapping[str, Any]) -> Picture:
    """A sample of a shard as a person looks at it, read with the decoder's defaults.

    Args:
        raw: members by extension.

    Returns:
        uint8 [H, W, 3], of any size.

    Raises:
        SampleError: it cannot be read.
    """
    from foundation.modalities.image.decode import decode

    return to_rgb(decode(raw)["image"])


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


def resize(picture: Picture, height: int, width: int, smooth: bool = True) -> Picture:
    """A picture at another size; ``smooth=False`` keeps the pixels visible."""
    from PIL import Image

    method = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize((width, height), method))


def contact_sheet(
    images: Sequence[Any], labels: Sequence[str] | None = None, columns: int = 8, cell: int = 128, gap: int = 4
) -> Image:
    """Many pictures on one sheet.

    Args:
        images: normalised views or uint8 images, see :func:`to_rgb`; sizes may differ.
        labels: one line of text under each, cut to the cell's width.
        columns: cells per line.
        cell: side of a cell, pixels; a picture keeps its proportions inside.
        gap: pixels between cells.

    Returns:
        The sheet.

    Raises:
        ValueError: labels and images differ in number.
    """
    from PIL import Image, ImageDraw, ImageFont

    if labels is not None and len(labels) != len(images):
        raise ValueError(f"{len(images)} images but {len(labels)} labels")
    font = ImageFont.load_default()
    line = 14 if labels is not None else 0
    columns = max(1, min(columns, len(images)))
    rows = math.ceil(len(images) / columns)
    size = (columns * (cell + gap) + gap, rows * (cell + line + gap) + gap)
    sheet = Image.new("RGB", size if rows else (cell, cell), (245, 245, 245))
    draw = ImageDraw.Draw(sheet)
    for number, image in enumerate(images):
        picture = to_rgb(image)
        height, width = picture.shape[:2]
        factor = cell / max(height, width)
        new = max(1, round(height * factor)), max(1, round(width * factor))
        picture = resize(picture, *new, smooth=factor < 2.0)
        left = gap + (number % columns) * (cell + gap)
        top = gap + (number // columns) * (cell + line + gap)
        sheet.paste(Image.fromarray(picture), (left + (cell - new[1]) // 2, top + (cell - new[0]) // 2))
        if labels is not None:
            text = str(labels[number])
            while text and draw.textlength(text, font=font) > cell:
                text = text[:-1]
            draw.text((left, top + cell + 1), text, fill=(40, 40, 40), font=font)
    return sheet


def heat_rgb(heat: Tensor | NDArray[Any], low: float | None = None, high: float | None = None) -> Picture:
    """Colours of a map of numbers: dark is low, bright is high.

    Args:
        heat: [h, w].
        low: value shown darkest; by default the smallest.
        high: value shown brightest; by default the largest.

    Returns:
        uint8 [h, w, 3]; values that are not finite are shown darkest.
    """
    values = torch.as_tensor(heat).detach().cpu().double().numpy()
    finite = values[np.isfinite(values)]
    low = float(finite.min()) if low is None and finite.size else (low or 0.0)
    high = float(finite.max()) if high is None and finite.size else (high or 1.0)
    share = np.nan_to_num((values - low) / max(high - low, 1e-12), nan=0.0, posinf=0.0, neginf=0.0).clip(0.0, 1.0)
    anchors = np.linspace(0.0, 1.0, len(_HEAT))
    return np.stack([np.interp(share, anchors, _HEAT[:, c]) for c in range(3)], -1).round().astype(np.uint8)


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
    picture = to_rgb(image, **options)
    colours = resize(heat_rgb(heat), picture.shape[0], picture.shape[1])
    mixed = (1.0 - strength) * picture.astype(np.float64) + strength * colours
    return mixed.round().clip(0, 255).astype(np.uint8)


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
    picture = to_rgb(image, **options)
    hidden = torch.as_tensor(masked).cpu().numpy().astype(bool).reshape(grid)
    height, width = picture.shape[:2]
    levels = np.repeat(np.where(hidden, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
    large = resize(levels, height, width, smooth=False)[..., :1] > 127
    dimmed = 0.2 * picture + 0.8 * np.array([96.0, 96.0, 112.0])
    return np.where(large, dimmed, picture).round().astype(np.uint8)


def pca_rgb(patches: Tensor, grid: tuple[int, int]) -> Picture:
    """The three main directions of patch features as red, green and blue.

    One basis for all images, so that equal colours mean similar features across them. Signs are fixed by making each
    direction's largest loading positive.

    Args:
        patches: [n, N, D] with N = rows x columns of the grid.
        grid: patches down and across.

    Returns:
        uint8 [n, rows, columns, 3].

    Raises:
        ValueError: N does not fit the grid.
    """
    count, tokens, width = patches.shape
    if tokens != grid[0] * grid[1]:
        raise ValueError(f"{tokens} patch tokens do not make a grid of {grid[0]} x {grid[1]}")
    flat = patches.detach().cpu().double().reshape(-1, width)
    flat = flat - flat.mean(0)
    basis = torch.linalg.eigh(flat.T @ flat / max(len(flat) - 1, 1))[1].flip(1)[:, :3]  # [D, <= 3]
    basis = basis * torch.sign(basis.gather(0, basis.abs().argmax(0, keepdim=True)))
    scores = torch.zeros(len(flat), 3, dtype=torch.float64)
    scores[:, : basis.shape[1]] = flat @ basis
    low, high = scores.quantile(0.01, 0), scores.quantile(0.99, 0)
    share = ((scores - low) / (high - low).clamp(min=1e-12)).clamp(0.0, 1.0)
    return (share * 255.0).round().to(torch.uint8).reshape(count, *grid, 3).numpy()
