"""Drawing that knows no modality: maps of numbers and of features as colours, laid over a picture; data URIs."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Picture = NDArray[np.uint8]
"""[H, W, 3] uint8."""

# Anchors of a perceptually even dark-to-bright scale (near matplotlib's "inferno"), so that no plot library is needed.
_HEAT = np.array(
    [(0, 0, 4), (51, 10, 95), (120, 28, 109), (188, 55, 84), (237, 105, 37), (252, 176, 20), (252, 255, 164)],
    np.float64,
)


def resize(picture: Picture, height: int, width: int, smooth: bool = True) -> Picture:
    """A picture at another size; ``smooth=False`` keeps the pixels visible."""
    from PIL import Image

    method = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize((width, height), method))


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


def laid_over(picture: Picture, heat: Picture, strength: float) -> Picture:
    """Colours of a map over a picture.

    Args:
        picture: uint8 [H, W, 3].
        heat: uint8 [h, w, 3]; enlarged smoothly to the picture.
        strength: share of the map in the mixture.
    """
    colours = resize(heat, picture.shape[0], picture.shape[1])
    mixed = (1.0 - strength) * picture.astype(np.float64) + strength * colours
    return mixed.round().clip(0, 255).astype(np.uint8)


def dimmed(picture: Picture, hidden: Tensor | NDArray[np.bool_], grid: tuple[int, int]) -> Picture:
    """A picture with the cells of a grid that are hidden dimmed to a fifth and tinted.

    Args:
        picture: uint8 [H, W, 3].
        hidden: [N] or [rows, columns] bool, row-major.
        grid: rows and columns.
    """
    cells = torch.as_tensor(hidden).cpu().numpy().astype(bool).reshape(grid)
    levels = np.repeat(np.where(cells, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
    large = resize(levels, picture.shape[0], picture.shape[1], smooth=False)[..., :1] > 127
    return np.where(large, 0.2 * picture + 0.8 * np.array([96.0, 96.0, 112.0]), picture).round().astype(np.uint8)


def pca_rgb(patches: Tensor, grid: tuple[int, int]) -> Picture:
    """:func:`pca_colours` of patches on a grid.

    Args:
        patches: [n, N, D] with N = rows x columns of the grid.
        grid: patches down and across.

    Returns:
        uint8 [n, rows, columns, 3].

    Raises:
        ValueError: N does not fit the grid.
    """
    count, tokens = patches.shape[:2]
    if tokens != grid[0] * grid[1]:
        raise ValueError(f"{tokens} patch tokens do not make a grid of {grid[0]} x {grid[1]}")
    return pca_colours(patches).reshape(count, *grid, 3)


def pca_colours(patches: Tensor, shown: Tensor | None = None) -> Picture:
    """The three main directions of patch features as red, green and blue.

    One basis for all samples, so that equal colours mean similar features across them. Signs are fixed by making each
    direction's largest loading positive. Each direction is scaled so that its 1st and 99th percentile become 0 and 255.

    Args:
        patches: [n, N, D].
        shown: [n, N] bool, the tokens that basis and colours are made of, the others are black (what
            :func:`foreground` leaves, tokens that are no padding); None: all.

    Returns:
        uint8 [n, N, 3].
    """
    count, tokens, width = patches.shape
    kept = torch.ones(count * tokens, dtype=torch.bool) if shown is None else shown.detach().cpu().reshape(-1)
    flat = patches.detach().cpu().double().reshape(-1, width)[kept]
    colours = torch.zeros(count * tokens, 3, dtype=torch.uint8)
    if len(flat):
        scores = main_directions(flat, 3)
        low, high = scores.quantile(0.01, 0), scores.quantile(0.99, 0)
        share = ((scores - low) / (high - low).clamp(min=1e-12)).clamp(0.0, 1.0)
        colours[kept] = (share * 255.0).round().to(torch.uint8)
    return colours.reshape(count, tokens, 3).numpy()


def foreground(patches: Tensor, edge: Tensor | None = None, shown: Tensor | None = None) -> Tensor:
    """Tokens of what stands before the background: one side of the first principal component (as in DINOv2).

    The component is split where the two sides differ most for their spread (Otsu). The side that has the smaller share
    of the tokens at the edge is the foreground; without an edge it is the smaller side.

    Args:
        patches: [n, N, D].
        edge: [N] bool, tokens at the edge of their grid; None: they lie on no grid.
        shown: [n, N] bool, tokens that count; None: all.

    Returns:
        [n, N] bool.
    """
    count, tokens, width = patches.shape
    kept = torch.ones(count, tokens, dtype=torch.bool) if shown is None else shown.detach().cpu().bool()
    first = torch.zeros(count, tokens, dtype=torch.float64)
    first[kept] = main_directions(patches.detach().cpu().double().reshape(-1, width)[kept.reshape(-1)], 1)[:, 0]
    high = (first > _split(first[kept])) & kept
    at = kept if edge is None else kept & edge
    if bool(at.any()) and float(high[at].double().mean()) > (
        0.5 if edge is None else float(high[kept].double().mean())
    ):
        return ~high & kept
    return high


def main_directions(flat: Tensor, count: int) -> Tensor:
    """Scores on the first principal components.

    Args:
        flat: [M, D] float64.
        count: of components.

    Returns:
        [M, count] float64; 0 where there are fewer directions. The largest loading of each direction is positive.
    """
    flat = flat - flat.mean(0)
    basis = torch.linalg.eigh(flat.T @ flat / max(len(flat) - 1, 1))[1].flip(1)[:, :count]  # [D, <= count]
    basis = basis * torch.sign(basis.gather(0, basis.abs().argmax(0, keepdim=True)))
    scores = torch.zeros(len(flat), count, dtype=torch.float64)
    scores[:, : basis.shape[1]] = flat @ basis
    return scores


def _split(values: Tensor) -> float:
    """The threshold with the largest variance between its two sides (Otsu 1979)."""
    ordered = values.sort().values
    below = torch.arange(1, len(ordered), dtype=torch.float64)
    above = len(ordered) - below
    means = ordered.cumsum(0)[:-1] / below, (ordered.sum() - ordered.cumsum(0)[:-1]) / above
    between = below * above * (means[1] - means[0]) ** 2
    if not len(between):
        return 0.0
    place = int(between.argmax())
    return float((ordered[place] + ordered[place + 1]) / 2)


def png(pixels: NDArray[np.uint8]) -> str:
    """Data URI of [H, W, 3] or [H, W] uint8."""
    return _encode(pixels, "PNG", optimize=True)


def photo(pixels: NDArray[np.uint8]) -> str:
    """Data URI of [H, W, 3] uint8: PNG where small, else JPEG."""
    return png(pixels) if pixels.shape[0] <= 64 else _encode(pixels, "JPEG", quality=87)


def _encode(pixels: NDArray[np.uint8], kind: str, **options: Any) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(stream.getvalue()).decode()
