"""What a person would try first on point clouds, for probes to compare with: distances, which do not care for rotation.

All three are the same for a turned cloud, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

_QUANTILES, _BINS, _PARTNERS = 64, 64, 16
_CELLS, _NEAREST = 6, 12


def features(evaluation: Any) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """Simple features by name, each from evaluation views [B, channels, P] to [B, D]."""
    return {
        "sorted distances": sorted_distances,
        "distances of pairs": pair_distances,
        "principal axes": principal_axes,
        "quantiles of the axes": axis_quantiles,
        "occupancy grid": occupancy,
        "occupancy grid, principal axes": aligned_occupancy,
        "shapes of neighbourhoods": neighbourhoods,
        "shapes and directions of neighbourhoods": leaning_neighbourhoods,
    }


def sorted_distances(view: Tensor) -> Tensor:
    """Quantiles of the distances from the middle of the cloud, [B, 64]."""

    lengths = _centred(view).norm(dim=1)
    return torch.quantile(lengths, torch.linspace(0, 1, _QUANTILES), dim=1).T


def pair_distances(view: Tensor) -> Tensor:
    """Histogram of the distances between pairs of points over their mean (D2, Osada et al. 2002), [B, 64].

    Pairs are those at some fixed distances in the order of the view, so that no draw is needed.
    """

    xyz = _centred(view)
    count = xyz.shape[2]
    steps = sorted({max(1, (2 * k + 1) * count // (2 * _PARTNERS)) for k in range(_PARTNERS)})
    lengths = torch.cat([(xyz - xyz.roll(step, dims=2)).norm(dim=1) for step in steps], dim=1)
    places = (lengths / lengths.mean(dim=1, keepdim=True).clamp(min=1e-9) * (_BINS / 3)).long().clamp(max=_BINS - 1)
    counts = torch.zeros(len(xyz), _BINS).scatter_add_(1, places, torch.ones_like(lengths))
    return counts / lengths.shape[1]


def principal_axes(view: Tensor) -> Tensor:
    """Quantiles of the coordinates along the three principal axes, largest spread first, without sign, [B, 3 x 16]."""
    return _quantiles(_principal(_centred(view)).abs())


def axis_quantiles(view: Tensor) -> Tensor:
    """Quantiles of x, of y and of z as stored, [B, 3 x 16]."""
    return _quantiles(_centred(view))


def occupancy(view: Tensor) -> Tensor:
    """Share of the points in each cell of a grid of 6 x 6 x 6 around the cloud, axes as stored, [B, 216]."""
    return _grid(_centred(view))


def aligned_occupancy(view: Tensor) -> Tensor:
    """The same grid along the principal axes, each pointing to its longer tail, so that turning changes nothing."""

    along = _principal(_centred(view))
    skew = (along**3).sum(dim=2, keepdim=True)
    return _grid(along * torch.where(skew < 0, -1.0, 1.0))


def neighbourhoods(view: Tensor) -> Tensor:
    """How line-like, flat and scattered the 12 neighbours of each point lie (Weinmann et al. 2015), [B, 4 x 16].

    Quantiles over the points of the three shares of the local eigenvalues' square roots, and of the distance to the
    twelfth neighbour over the cloud's radius.
    """
    return _quantiles(_neighbourhoods(view)[:, :4])


def leaning_neighbourhoods(view: Tensor) -> Tensor:
    """The same, and how far the main direction and the normal of each neighbourhood lean from x, y and z, [B, 160]."""
    return _quantiles(_neighbourhoods(view))


def _neighbourhoods(view: Tensor) -> Tensor:
    """Of each point [B, 10, P]: three shares, a distance, and the unsigned main direction and normal."""

    xyz = _centred(view).transpose(1, 2)
    rows = []
    for cloud in xyz:
        distances, near = torch.cdist(cloud, cloud).topk(min(_NEAREST + 1, len(cloud)), largest=False)
        group = cloud[near]
        group = group - group.mean(dim=1, keepdim=True)
        spread, axes = torch.linalg.eigh(group.transpose(1, 2) @ group / group.shape[1])  # ascending
        low, middle, high = spread.clamp(min=0).sqrt().unbind(1)
        high = high.clamp(min=1e-9)
        radius = cloud.norm(dim=1).amax().clamp(min=1e-9)
        shares = torch.stack([(high - middle) / high, (middle - low) / high, low / high, distances[:, -1] / radius])
        rows.append(torch.cat([shares, axes[:, :, 2].T.abs(), axes[:, :, 0].T.abs()]))
    return torch.stack(rows)


def _principal(xyz: Tensor) -> Tensor:
    """Coordinates along the principal axes, largest spread first, [B, 3, P]; their signs are arbitrary."""

    _, axes = torch.linalg.eigh(xyz @ xyz.transpose(1, 2) / xyz.shape[2])
    return axes.flip(2).transpose(1, 2) @ xyz


def _quantiles(rows: Tensor) -> Tensor:
    """16 quantiles of each row, [B, R, P] to [B, 16 R]."""

    return torch.quantile(rows, torch.linspace(0, 1, _QUANTILES // 4), dim=2).permute(1, 2, 0).flatten(1)


def _grid(xyz: Tensor) -> Tensor:
    """Share of the points in each cell, [B, 216]; the grid ends at the largest coordinate of the cloud."""

    half = xyz.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1e-9)
    cells = ((xyz / half + 1) * (_CELLS / 2)).long().clamp(max=_CELLS - 1)
    places = (cells[:, 0] * _CELLS + cells[:, 1]) * _CELLS + cells[:, 2]
    return torch.zeros(len(xyz), _CELLS**3).scatter_add_(1, places, torch.ones_like(xyz[:, 0])) / xyz.shape[2]


def _centred(view: Tensor) -> Tensor:
    """[B, 3, P] float32 on the host, the mean at the origin."""
    xyz = view[:, :3].detach().float().cpu()
    return xyz - xyz.mean(dim=2, keepdim=True)
