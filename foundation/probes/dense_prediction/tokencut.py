"""TokenCut (Wang et al. 2022): the object of a picture by a normalised cut of its patches, without any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
"""Left, top, right, bottom; the last two exclusive."""


@dataclass(frozen=True)
class Cut:
    """What was found.

    Attributes:
        eigenvector: [rows, columns] second smallest of the cut; large on the foreground.
        foreground: [rows, columns] bool, above its mean.
        seed: place of the patch that stands out most, counted row by row.
        component: [rows, columns] bool, what is connected with the seed.
        cells: (left, top, right, bottom) of the component, in patches, the last two exclusive.
    """

    eigenvector: NDArray[np.float64]
    foreground: NDArray[np.bool_]
    seed: int
    component: NDArray[np.bool_]
    cells: tuple[int, int, int, int]

    def box(self, scale: tuple[float, float], size: tuple[float, float]) -> Box:
        """In pixels: ``scale`` is the patch's height and width, ``size`` the picture's, at which it ends."""
        left, top, right, bottom = self.cells
        return (
            left * scale[1],
            top * scale[0],
            min(right * scale[1], size[1]),
            min(bottom * scale[0], size[0]),
        )


def cut(
    features: NDArray[np.floating],
    grid: tuple[int, int],
    *,
    threshold: float = 0.2,
    epsilon: float = 1e-5,
    binary: bool = True,
) -> Cut:
    """Cut the patches of one picture into two.

    The generalised eigenvectors of ``(D - A) x = lambda D x``, where A are the edges between patches and D their sums.

    Args:
        features: [N, D] of its patches, row by row.
        grid: patches down and across.
        threshold: cosine above which two patches are joined.
        epsilon: weight of the edges between all others.
        binary: edges above the threshold weigh 1; otherwise their cosine.

    Raises:
        ValueError: fewer than two patches, or features that are not finite.
    """
    from scipy.linalg import eigh
    from scipy.ndimage import label

    values = np.asarray(features, np.float64)
    if len(values) != grid[0] * grid[1] or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"{len(values)} patches for a grid of {grid[0]} x {grid[1]}: at least two finite ones")
    values = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    cosine = values @ values.T
    edges = np.where(cosine > threshold, 1.0, epsilon) if binary else np.where(cosine < threshold, epsilon, cosine)
    degrees = np.diag(edges.sum(1))
    _, vectors = eigh(degrees - edges, degrees, subset_by_index=[1, 1])
    vector = vectors[:, 0]
    foreground = vector > vector.mean()
    seed = int(np.argmax(np.abs(vector)))
    if not foreground[seed]:
        foreground, vector = ~foreground, -vector
    plane = foreground.reshape(grid)
    components, _ = label(plane)
    component = components == components.flat[seed]
    rows, columns = np.nonzero(component)
    cells = int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
    return Cut(vector.reshape(grid), plane, seed, component, cells)


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return float(both / (areas - both))


def boxes_of(labels: NDArray[np.integer], ignored: Sequence[int]) -> list[Box]:
    """Boxes of the objects of a label map [H, W]: connected pixels of one label that is not among ``ignored``."""
    from scipy.ndimage import find_objects, label

    found: list[Box] = []
    for value in np.setdiff1d(np.unique(labels), ignored).tolist():
        components, _ = label(labels == value)
        found += [
            (float(columns.start), float(rows.start), float(columns.stop), float(rows.stop))
            for rows, columns in find_objects(components)
        ]
    return found
