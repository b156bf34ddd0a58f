"""How many directions features use: figures that need no labels, to tell a collapsed encoder from a rich one."""

from __future__ import annotations

import torch
from torch import Tensor

from foundation.errors import UserError
from foundation.probes.features import check_finite

FIRST, LAST = 3, 100
"""Ranks of the eigenvalues that the decay is fitted to: the first are classes, the last noise."""
WIDEST = 4096
"""Numbers of a feature that :func:`lidar` takes, at most: its cost is that of a matrix of so many rows and columns."""


def _singular_values(x: Tensor) -> Tensor:
    """Of [S, D]; those of the triangle of a QR decomposition are the same, and of wide features far sooner there."""
    wide = x.shape[1] > 2 * x.shape[0]
    return torch.linalg.svdvals(torch.linalg.qr(x.T, mode="r").R if wide else x)


def spectrum(features: Tensor) -> Tensor:
    """[min(S, D)] float64 eigenvalues of the covariance of features [S, D], largest first.

    Raises:
        UserError: features are not finite.
    """
    check_finite(features, "looked at")
    x = features.double()
    values = _singular_values(x - x.mean(dim=0))
    return values.square() / max(1, len(x) - 1)


def rank_me(features: Tensor) -> float:
    """RankMe (Garrido et al. 2023): exp of the entropy of the singular values' shares, between 1 and min(S, D).

    Args:
        features: [S, D], not centred, as in the paper.
    """
    check_finite(features, "looked at")
    return effective_rank(_singular_values(features.double()))


def effective_rank(values: Tensor) -> float:
    """Exp of the entropy of the shares of values >= 0 (Roy and Vetterli 2007); 0 where all are 0."""
    total = float(values.sum())
    if total <= 0:
        return 0.0
    shares = values / total
    there = shares[shares > 0]
    return float((-(there * there.log()).sum()).exp())


def alpha_req(values: Tensor) -> float:
    """alpha-ReQ (Agrawal et al. 2022): exponent of the power law ``eigenvalue ~ rank ** -alpha`` by least squares in
    logarithms, over the ranks 3 to 100; about 1 is best, 0 is white, much above 1 is collapsed. NaN for fewer than
    three such eigenvalues.

    Args:
        values: of :func:`spectrum`.
    """
    last = min(LAST, int((values > 1e-12 * values[0].clamp(min=1e-300)).sum()))
    if last - FIRST < 2:
        return float("nan")
    ranks = torch.arange(FIRST, last + 1, dtype=torch.float64).log()
    sizes = values[FIRST - 1 : last].double().log()
    centred = ranks - ranks.mean()
    return float(-(centred * sizes).sum() / centred.square().sum())


def lidar(views: Tensor, ridge: float = 1e-4) -> float:
    """LiDAR (Thilak et al. 2024): effective rank of Fisher's discriminant, each sample a class of its views.

    Args:
        views: [S, V, D] features of V >= 2 augmented views of each sample.
        ridge: added to the diagonal of the covariance within samples.

    Raises:
        UserError: features are not finite, or are of more than :data:`WIDEST` numbers.
    """
    samples, count, width = views.shape
    if width > WIDEST:
        raise UserError(f"{width:,} numbers of a feature, of at most {WIDEST:,}")
    check_finite(views.flatten(0, 1), "looked at")
    x = views.double()
    means = x.mean(dim=1)
    between = means - means.mean(dim=0)
    within = (x - means[:, None]).flatten(0, 1)
    between = between / max(1, samples - 1) ** 0.5
    within = within.T @ within / max(1, samples * (count - 1)) + ridge * torch.eye(width, dtype=torch.float64)
    # Eigenvalues of W^-1/2 B W^-1/2 are the squared singular values of L^-1 M, where W = L L^T and B = M M^T: far
    # cheaper than eigenvectors of W.
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(within), between.T, upper=False)
    return effective_rank(torch.linalg.svdvals(whitened).square())
