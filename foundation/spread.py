"""How far features spread: the figures that show a collapse. Letters: N rows (samples), D width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def normalised_std(features: Tensor) -> Tensor:
    """Standard deviation of each dimension of the L2-normalised features, averaged and multiplied by ``sqrt(D)``.

    1 for directions that are uniform on the sphere, 0 for a constant (Chen and He 2021, figure 2).

    Args:
        features: [N, D].

    Returns:
        [] float32; 0 for fewer than two rows.
    """
    if len(features) < 2:
        return features.new_zeros((), dtype=torch.float32)
    directions = F.normalize(features.float(), dim=1)
    return directions.std(dim=0).mean() * features.shape[1] ** 0.5


@torch.no_grad()
def rankme(features: Tensor, centred: bool = False) -> Tensor:
    """RankMe (Garrido et al. 2023, arXiv 2210.02885, equation 1): a smooth count of the dimensions in use.

    ``exp(-sum_k p_k ln p_k)`` with ``p_k = sigma_k / sum(sigma) + 1e-7`` over the singular values of the features.
    It grows with N, so that only figures of equally many rows can be compared, and a constant offset hides all else:
    ``centred`` takes the mean of the rows away first.

    Singular values come from the smaller Gram matrix in float64, which is several times quicker than a decomposition of
    the features; its error, 1e-8 of the largest singular value, lies below the formula's 1e-7.

    Args:
        features: [N, D].
        centred: without the mean row.

    Returns:
        [] float64, between 1 and min(N, D).
    """
    with torch.autocast(features.device.type, enabled=False):
        rows = features.double()
        if centred:
            rows = rows - rows.mean(dim=0)
        gram = rows.T @ rows if rows.shape[0] >= rows.shape[1] else rows @ rows.T
        sigma = torch.linalg.eigvalsh(gram).clamp(min=0.0).sqrt()
        share = sigma / sigma.sum().clamp(min=torch.finfo(torch.float64).tiny) + 1e-7
        return torch.exp(-(share * share.log()).sum())
