"""Farthest-point sampling, nearest neighbours and their inverse, batched, in plain torch on any device.

Letters: R clouds, P points, N centres, k neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

CHUNK = 2**22
"""Distances that are held at once (16 MiB)."""


_SEARCHED = WeakTensorKeyDictionary()  # of each view that is alive: its version, and groups by number and size


@torch.no_grad()
def groups_of(view: Tensor, count: int, size: int) -> tuple[Tensor, Tensor]:
    """Groups of the points of a view. They are searched once, however many branches, heads and passes ask for them.

    Args:
        view: [R, C, P], of which x, y, z come first.
        count: groups N of each cloud.
        size: points k of a group.

    Returns:
        [R, N] and [R, N, k] int64, places in the cloud of the centres, and of the points of each group.
    """

    def search() -> tuple[Tensor, Tensor]:
        points = view[:, :3].transpose(1, 2).float()  # [R, P, 3]
        centres = farthest_points(points, count)
        return centres, nearest_points(points, gather_points(points, centres), size)

    if torch.is_inference_mode_enabled() or view.is_inference() or torch.compiler.is_compiling():
        return search()  # such tensors may not serve a step that trains
    version, known = _SEARCHED.get(view, (None, {}))
    if version != view._version:
        known = {}
        _SEARCHED[view] = (view._version, known)
    if (count, size) not in known:
        known[count, size] = search()
    found: tuple[Tensor, Tensor] = known[count, size]
    return found


@torch.no_grad()
def farthest_points(points: Tensor, count: int) -> Tensor:
    """Farthest-point sampling (Eldar et al. 1997; PointNet++): each next point is the farthest from those taken.

    It starts at the point farthest from the cloud's mean, so that the points taken do not depend on the order in which
    a cloud is stored (published CUDA versions start at the first point, and pass over points near the origin).
    A cloud with fewer different points than ``count`` gives some of them again.

    Args:
        points: [R, P, 3]; computed in float32.
        count: points to take, 1 to P.

    Returns:
        [R, count] int64, places in the cloud, in the order in which they were taken.

    Raises:
        ValueError: count does not lie in 1 to P.
    """
    rows, size = points.shape[:2]
    if not 1 <= count <= size:
        raise ValueError(f"{count} farthest points of a cloud of {size}: give 1 to {size}")
    planes = points.detach().float().permute(2, 0, 1).contiguous()  # [3, R, P]: long runs for the processor
    taken = torch.empty((rows, count), dtype=torch.int64, device=points.device)
    centre = planes.mean(-1, keepdim=True)
    nearest = torch.full((rows, size), torch.inf, device=points.device)
    for index in range(count):
        distance = (planes[0] - centre[0]).square_()
        distance.add_((planes[1] - centre[1]).square_()).add_((planes[2] - centre[2]).square_())
        if index == 0:
            taken[:, 0] = distance.argmax(-1)
        else:
            torch.minimum(nearest, distance, out=nearest)
            taken[:, index] = nearest.argmax(-1)
        if index == 0 and count > 1:
            centre = _at(planes, taken[:, 0])
            first = (planes - centre).square().sum(0)
            torch.minimum(nearest, first, out=nearest)
            continue
        centre = _at(planes, taken[:, index])
    return taken


def _at(planes: Tensor, indices: Tensor) -> Tensor:
    """[3, R, 1] coordinates of one point of each cloud."""
    return planes.gather(2, indices[None, :, None].expand(3, -1, 1))


@torch.no_grad()
def nearest_points(points: Tensor, centres: Tensor, count: int, chunk: int = CHUNK) -> Tensor:
    """Nearest points of each centre, by Euclidean distance.

    Args:
        points: [R, P, 3].
        centres: [R, N, 3].
        count: neighbours k, 1 to P.
        chunk: distances held at once, at least; rows are worked through in parts.

    Returns:
        [R, N, k] int64, places in the cloud, nearest first.

    Raises:
        ValueError: count does not lie in 1 to P.
    """
    size = points.shape[1]
    if not 1 <= count <= size:
        raise ValueError(f"{count} nearest points in a cloud of {size}: give 1 to {size}")
    points, centres = points.detach().float(), centres.detach().float()
    if torch.compiler.is_exporting():  # a program for any number of rows cannot say into how many parts they fall
        return _nearest(points, centres, count)
    rows = max(1, chunk // (size * centres.shape[1]))
    columns = centres.shape[1] if rows > 1 else max(1, chunk // size)
    found = []
    for cloud, middle in zip(points.split(rows), centres.split(rows), strict=True):
        found.append(torch.cat([_nearest(cloud, part, count) for part in middle.split(columns, dim=1)], dim=1))
    return torch.cat(found)


def _nearest(points: Tensor, centres: Tensor, count: int) -> Tensor:
    """:func:`nearest_points` with all distances at once."""
    # Differences, not the matrix product: that one loses the small distances which matter here.
    distance = torch.cdist(centres, points, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.topk(count, largest=False).indices


def gather_points(points: Tensor, indices: Tensor) -> Tensor:
    """Rows of clouds.

    Args:
        points: [R, P, C].
        indices: [R, ...] int64.

    Returns:
        [R, ..., C].
    """
    flat = indices.flatten(1)
    taken = points.gather(1, flat[..., None].expand(-1, -1, points.shape[-1]))
    return taken.view(*indices.shape, points.shape[-1])


def per_point(features: Tensor, centres: Tensor, points: Tensor, neighbours: int = 3) -> Tensor:
    """Features of groups carried over to single points: a mean of the nearest groups, weighted by the inverse square
    of the distance (feature propagation of PointNet++, Qi et al. 2017, equation 2).

    Args:
        features: [R, N, D] of the groups, such as ``Features.patches``.
        centres: [R, N, 3], such as ``tokenizer.Config.coordinates_of`` gives them.
        points: [R, Q, 3] where features are wanted; any number, not only those encoded.
        neighbours: groups that a point draws on.

    Returns:
        [R, Q, D].
    """
    near = nearest_points(centres, points, min(neighbours, centres.shape[1]))  # [R, Q, k]
    square = (gather_points(centres.float(), near) - points.float()[:, :, None]).square().sum(dim=-1)
    weights = 1.0 / square.clamp(min=1e-12)
    weights = (weights / weights.sum(-1, keepdim=True)).to(features.dtype)
    return torch.einsum("rqk,rqkd->rqd", weights, gather_points(features, near))
