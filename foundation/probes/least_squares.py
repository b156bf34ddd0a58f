"""Linear maps in closed form: ridge regression whose strength is chosen on tokens that are kept back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

import torch
from torch import Tensor

STRENGTHS = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge as a share of the mean variance of the inputs."""


class Scores(TypedDict):
    """Share of cells that are named rightly, and mean over the classes of intersection over union."""

    accuracy: float
    mean_iou: float


def fit(inputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """The linear map with offset from inputs [n, D] to targets [n, P] of least squared error, in float64.

    One in five rows (every fifth) is kept back to choose the strength of the ridge, and joins the fit afterwards.

    Returns:
        From [m, D] to [m, P] float64.
    """
    x, y = inputs.double(), targets.double()
    back = torch.arange(len(x)) % 5 == 4
    best = STRENGTHS[2]
    if int(back.sum()) > 1:
        maps = _solved(x[~back], y[~back])
        errors = [float((predict(x[back]) - y[back]).square().mean()) for predict in maps]
        best = STRENGTHS[errors.index(min(errors))]
    return _solved(x, y)[STRENGTHS.index(best)]


def _solved(x: Tensor, y: Tensor) -> list[Callable[[Tensor], Tensor]]:
    """A map for each strength, from one decomposition."""
    middle, level = x.mean(dim=0), y.mean(dim=0)
    centred = x - middle
    values, directions = torch.linalg.eigh(centred.mT @ centred / len(x))
    along = directions.mT @ (centred.mT @ (y - level) / len(x))
    scale = values.clamp(min=0).mean().clamp(min=1e-300)

    def predictor(strength: float) -> Callable[[Tensor], Tensor]:
        weight = directions @ (along / (values.clamp(min=0) + strength * scale)[:, None])
        return lambda new: (new.double() - middle) @ weight + level

    return [predictor(strength) for strength in STRENGTHS]


def explained(predicted: Tensor, wanted: Tensor, level: Tensor) -> float:
    """Coefficient of determination (R2) of predictions of targets [m, P]: 1 - squared error / squared distance from
    ``level`` [P]; below 0 where the level alone does better."""
    whole = float((wanted - level).square().sum())
    return 1.0 - float((predicted - wanted).square().sum()) / whole if whole else 0.0


def accuracy(said: Tensor, truth: Tensor, classes: int) -> Scores:
    """Of classes [m]; classes that occur neither in what is said nor in truth do not count in the mean."""
    if not len(truth):
        return {"accuracy": 0.0, "mean_iou": 0.0}
    counts = torch.bincount(truth * classes + said, minlength=classes**2).reshape(classes, classes).double()
    both, either = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
    shares = both[either > 0] / either[either > 0]
    return {"accuracy": float(both.sum() / counts.sum()), "mean_iou": float(shares.mean())}
