"""Logistic regression on frozen features, fitted to the end by L-BFGS for several strengths of its L2 penalty.

The protocol of CLIP (Radford et al. 2021, appendix A.3): no augmentation, the strength is chosen on training samples
that are kept back, and the classifier is then fitted to all of them. The optimiser is that of Liu and Nocedal (1989).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from foundation.errors import UserError

STRENGTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
ITERATIONS = 200
"""Most steps for one strength; each begins where the next stronger one ended."""


@dataclass(frozen=True)
class Classifier:
    """A linear classifier.

    Attributes:
        weight: [D, C].
        bias: [C].
        strength: of the penalty that it was fitted with.
    """

    weight: Tensor
    bias: Tensor
    strength: float

    def scores(self, x: Tensor) -> Tensor:
        """[S, C] logits of features [S, D], on the CPU."""
        return (x.to(self.weight) @ self.weight + self.bias).cpu()

    def predict(self, x: Tensor) -> Tensor:
        """[S] int64 classes of features [S, D], on the CPU."""
        return self.scores(x).argmax(dim=1)


def fit(
    x: Tensor,
    labels: Tensor,
    num_classes: int,
    strengths: Sequence[float] = STRENGTHS,
    *,
    device: torch.device | str = "cpu",
    iterations: int = ITERATIONS,
) -> list[Classifier]:
    """The classifiers of least ``mean cross-entropy + strength / 2 * |weight|^2``, the bias without penalty.

    Args:
        x: [S, D] features.
        labels: [S] int64.
        num_classes: C.
        strengths: of the penalty; scikit-learn's ``C`` is ``1 / (S * strength)``.
        device: where to compute.
        iterations: most steps for each strength.

    Returns:
        One for each strength, in their order.

    Raises:
        UserError: there is no strength, or one is below 0.
    """
    if not strengths or min(strengths) < 0:
        raise UserError(f"logistic: strengths must be numbers of at least 0, got {list(strengths)}")
    x, y = x.to(device), labels.to(device)
    # One matrix, the bias as its last row: L-BFGS sees one vector.
    theta = torch.zeros(x.shape[1] + 1, num_classes, dtype=x.dtype, device=x.device, requires_grad=True)
    found: dict[float, Classifier] = {}
    for strength in sorted(set(strengths), reverse=True):
        optimizer = torch.optim.LBFGS(
            [theta],
            max_iter=iterations,
            history_size=10,
            tolerance_grad=1e-7,
            tolerance_change=1e-12,
            line_search_fn="strong_wolfe",
        )

        def loss(strength: float = strength, optimizer: torch.optim.LBFGS = optimizer) -> Tensor:
            optimizer.zero_grad()
            logits = x @ theta[:-1] + theta[-1]
            value = functional.cross_entropy(logits, y) + 0.5 * strength * theta[:-1].square().sum()
            value.backward()
            return value

        with torch.enable_grad():
            optimizer.step(loss)
        found[strength] = Classifier(theta[:-1].detach().clone(), theta[-1].detach().clone(), strength)
    return [found[strength] for strength in strengths]
