"""The geometry of views of points: normalising, crops, fixed numbers of points, rotations. Plain numpy, one cloud each.

All randomness comes in as uniform numbers of the one cloud, so that a view never depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from foundation.errors import UserError

Cloud = NDArray[np.float32]
"""[N, C]: x, y, z and what follows."""
Numbers = Callable[[str, int], NDArray[np.float64]]
"""Uniform random numbers of one view, by what they are for: (name, count) -> [count]."""


def select_channels(cloud: Cloud, channels: int, key: str = "") -> Cloud:
    """The first channels of a cloud, [N, channels].

    Raises:
        UserError: it has fewer.
    """
    if cloud.shape[1] < channels:
        raise UserError(
            f"sample {key!r}: its points have {cloud.shape[1]} numbers, but channels is {channels}: "
            f"set channels of views and tokenizer to {cloud.shape[1]} or less"
        )
    return cloud[:, :channels]


def normalised(cloud: Cloud, how: Literal["sphere", "centre", "none"]) -> tuple[Cloud, NDArray[np.float64]]:
    """A cloud in the frame of the views.

    Args:
        cloud: [N, C].
        how: ``sphere``: mean at the origin, largest radius 1 (Point-MAE, ModelNet40); ``centre``: mean at the origin,
            metres kept; ``none``.

    Returns:
        the cloud, and the affine map [3, 4] back to the source.
    """
    back = np.eye(3, 4)
    if how == "none":
        return cloud, back
    xyz = cloud[:, :3].astype(np.float64)
    middle = xyz.mean(axis=0)
    xyz = xyz - middle
    radius = float(np.sqrt((xyz**2).sum(1).max())) if how == "sphere" else 1.0
    radius = max(radius, 1e-12)
    back[:, :3] *= radius
    back[:, 3] = middle
    return np.concatenate([(xyz / radius).astype(np.float32), cloud[:, 3:]], axis=1), back


def crop(
    cloud: Cloud, kind: Literal["sphere", "cuboid"], share: float, uniforms: NDArray[np.float64], aspect: float
) -> NDArray[np.int64]:
    """Places of the points of a crop: the given share of the cloud around a random point of it.

    Args:
        cloud: [N, C].
        kind: ``sphere``: the nearest points (POS-BERT, Sonata). ``cuboid``: those inside a box along the axes whose
            sides have random proportions, grown until it holds the share (after DepthContrast, Zhang et al. 2021).
        share: of the points, in (0, 1].
        uniforms: [4] the point, and the proportions of a box.
        aspect: shortest side of a box over its longest, at least.

    Returns:
        [n] int64, n = share * N rounded, at least 1, in no particular order.
    """
    count = max(1, round(share * len(cloud)))
    if count >= len(cloud):
        return np.arange(len(cloud))
    offsets = cloud[:, :3] - cloud[int(uniforms[0] * len(cloud)), :3]
    if kind == "sphere":
        distance = (offsets**2).sum(axis=1)
    else:
        sides = aspect + (1.0 - aspect) * uniforms[1:4]
        distance = (np.abs(offsets) / sides.astype(np.float32)).max(axis=1)
    return np.argpartition(distance, count - 1)[:count]


def thinned(cloud: Cloud, limit: int, numbers: Numbers) -> Cloud:
    """At most ``limit`` points of a cloud, all with the same chance, in no particular order."""
    if len(cloud) <= limit:
        return cloud
    return cloud[np.argpartition(numbers("points", len(cloud)), limit)[:limit]]


def resize(cloud: Cloud, size: int, kept: int, fill: Literal["interpolate", "repeat"], numbers: Numbers) -> Cloud:
    """A fixed number of points, in no particular order.

    Args:
        cloud: [N, C].
        size: wanted points.
        kept: points of the cloud to choose from at random, 1 to N; the others are dropped.
        fill: where points are missing, ``repeat`` some or ``interpolate``: new ones between a point and its
            three nearest, with random weights (POS-BERT fills by interpolation of 4 neighbours).
        numbers: draws for ``points``, ``base`` and ``weights``.

    Returns:
        [size, C].
    """
    count = min(kept, size)
    if count < len(cloud):
        cloud = cloud[np.argpartition(numbers("points", len(cloud)), count)[:count]]
    missing = size - count
    if missing == 0:
        return cloud
    base = (numbers("base", missing) * count).astype(np.int64)
    if fill == "repeat" or count < 4:
        return np.concatenate([cloud, cloud[base]])
    from scipy.spatial import cKDTree

    near = cKDTree(cloud[:, :3]).query(cloud[base, :3], k=4)[1]  # [missing, 4]
    weights = numbers("weights", 4 * missing).reshape(missing, 4) + 1e-3
    weights /= weights.sum(axis=1, keepdims=True)
    made = np.einsum("nk,nkc->nc", weights.astype(np.float32), cloud[near])
    return np.concatenate([cloud, made])


def turned_normals(normals: NDArray[Any], matrix: NDArray[np.float64]) -> Cloud:
    """Unit normals [N, 3] of a surface whose points were multiplied by a matrix: the inverse transpose turns them."""
    turned = normals.astype(np.float64) @ np.linalg.inv(matrix)
    length = np.linalg.norm(turned, axis=1, keepdims=True)
    return (turned / np.maximum(length, 1e-12)).astype(np.float32)


def through(affine: NDArray[np.float64], back: NDArray[np.float64]) -> NDArray[np.float32]:
    """Map [3, 4] from the coordinates of a view to the source.

    Args:
        affine: [3, 4], by which the view's coordinates came from those of the normalised cloud.
        back: [3, 4], from the normalised cloud to the source.
    """
    linear = back[:, :3] @ np.linalg.inv(affine[:, :3])
    return np.concatenate([linear, (back[:, 3] - linear @ affine[:, 3])[:, None]], axis=1).astype(np.float32)
