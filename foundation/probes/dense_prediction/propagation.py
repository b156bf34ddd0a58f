"""Labels of a first frame carried through a video by similarity of patches, and DAVIS's measures J and F.

The protocol of DINO (Caron et al. 2021, after Jabri et al. 2020): each patch takes the labels of the most similar
patches, near its own place, of the first frame and of the last few ones.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


def propagate(
    features: Tensor,
    labels: Tensor,
    grid: tuple[int, int],
    *,
    context: int = 7,
    radius: int = 12,
    top: int = 5,
    temperature: float = 0.1,
) -> Tensor:
    """Labels of all frames.

    Args:
        features: [T, N, D] of the patches of each frame.
        labels: [N, C] share of each object in the patches of the first frame.
        grid: patches down and across.
        context: frames before the present one that are looked at, beside the first.
        radius: patches up, down and aside within which is looked.
        top: most similar patches that count, of all frames together.
        temperature: of the weights exp(cosine / temperature).

    Returns:
        [T, N, C]; the first frame's are those given.
    """
    features = F.normalize(features.float(), dim=-1)
    rows, columns = torch.arange(grid[0]), torch.arange(grid[1])
    places = torch.cartesian_prod(rows, columns).to(features.device)
    near = ((places[:, None] - places[None]).abs() <= radius).all(-1)  # [N, N]
    found = [labels.float()]
    for time in range(1, len(features)):
        sources = sorted({0, *range(max(0, time - context), time)})
        known = torch.cat([found[at] for at in sources])  # [S N, C]
        similar = features[time] @ torch.cat([features[at] for at in sources]).T  # [N, S N]
        weights = torch.exp(similar / temperature).masked_fill(~near.repeat(1, len(sources)), 0.0)
        if top < weights.shape[1]:
            values, at = weights.topk(top, dim=1)
            weights = torch.zeros_like(weights).scatter_(1, at, values)
        found.append((weights / weights.sum(1, keepdim=True)) @ known)
    return torch.stack(found)


def masks_of(labels: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """[H, W] object of each pixel, from shares [N, C] of patches: bilinear, each object's map from 0 to 1 (DINO)."""
    maps = F.interpolate(labels.T.reshape(1, -1, *grid), size=size, mode="bilinear", align_corners=False)[0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    stretched = (maps - low) / (high - low).clamp(min=1e-12)
    return torch.where(high > 0, stretched, maps).argmax(0)


def region(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """J: intersection over union of two masks [H, W]; 1 where both are empty."""
    union = int((found | truth).sum())
    return int((found & truth).sum()) / union if union else 1.0


def boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of [H, W] that differ from the one to the right, below or both: the outline (DAVIS)."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here = padded[:-1, :-1]
    edge: NDArray[np.bool_] = (here != padded[:-1, 1:]) | (here != padded[1:, :-1]) | (here != padded[1:, 1:])
    return edge


def contour(found: NDArray[np.bool_], truth: NDArray[np.bool_], share: float = 0.008) -> float:
    """F: harmonic mean of the shares of each outline that lie near the other one; masks [H, W].

    Args:
        found: mask.
        truth: mask.
        share: of the picture's diagonal that counts as near, rounded up to whole pixels.
    """
    from scipy.ndimage import binary_dilation

    reach = math.ceil(share * math.hypot(*truth.shape))
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = rows**2 + columns**2 <= reach**2
    ours, theirs = boundary(found), boundary(truth)
    if not ours.any() and not theirs.any():
        return 1.0
    if not ours.any() or not theirs.any():
        return 0.0
    precision = float((ours & binary_dilation(theirs, disc)).sum() / ours.sum())
    recall = float((theirs & binary_dilation(ours, disc)).sum() / theirs.sum())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
