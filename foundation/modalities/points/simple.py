"""What a person would try first on point clouds, for probes to compare with: distances, which do not care for rotation.

All three are the same for a turned cloud, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_QUANTILES, _BINS, _PARTNERS = 64, 64, 16


def features(evaluation: Any) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """Simple features by name, each from evaluation views [B, channels, P] to [B, D]."""
    return {
        "sorted distances": sorted_distances,
        "distances of pairs": pair_distances,
        "principal axes": principal_axes,
    }


def sorted_distances(view: Tensor) -> Tensor:
    """Quantiles of the distances from the middle of the cloud, [B, 64]."""
    import torch

    lengths = _centred(view).norm(dim=1)
    return torch.quantile(lengths, torch.linspace(0, 1, _QUANTILES), dim=1).T


def pair_distances(view: Tensor) -> Tensor:
    """Histogram of the distances between pairs of points over their mean (D2, Osada et al. 2002), [B, 64].

    Pairs are those at some fixed distances in the order of the view, so that no draw is needed.
    """
    import torch

    xyz = _centred(view)
    count = xyz.shape[2]
    steps = sorted({max(1, (2 * k + 1) * count // (2 * _PARTNERS)) for k in range(_PARTNERS)})
    lengths = torch.cat([(xyz - xyz.roll(step, dims=2)).norm(dim=1) for step in steps], dim=1)
    places = (lengths / lengths.mean(dim=1, keepdim=True).clamp(min=1e-9) * (_BINS / 3)).long().clamp(max=_BINS - 1)
    counts = torch.zeros(len(xyz), _BINS).scatter_add_(1, places, torch.ones_like(lengths))
    return counts / lengths.shape[1]


def principal_axes(view: Tensor) -> Tensor:
    """Quantiles of the coordinates along the three principal axes, largest spread first, without sign, [B, 3 x 16]."""
    import torch

    xyz = _centred(view)
    _, axes = torch.linalg.eigh(xyz @ xyz.transpose(1, 2) / xyz.shape[2])
    along = (axes.flip(2).transpose(1, 2) @ xyz).abs()  # [B, 3, P]
    return torch.quantile(along, torch.linspace(0, 1, _QUANTILES // 4), dim=2).permute(1, 2, 0).flatten(1)


def _centred(view: Tensor) -> Tensor:
    """[B, 3, P] float32 on the host, the mean at the origin."""
    xyz = view[:, :3].detach().float().cpu()
    return xyz - xyz.mean(dim=2, keepdim=True)
