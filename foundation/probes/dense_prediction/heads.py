"""Linear heads on the parts of samples (patches, points), trained with bounded memory.

One pass over the training samples keeps some parts of each, drawn with a fixed seed, and a few samples whole, on which
the strength of the weight decay is chosen. So memory does not grow with the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foundation.errors import UserError
from foundation.probes.dense_prediction.softmax_regression import STRENGTHS, Linear, fit

PARTS = 50_000
"""Parts that heads learn from, at most."""
NUMBERS = 1 << 27
"""Numbers of features that are kept at most (512 MiB): wide features keep fewer parts."""
KEPT_BACK = 100
"""Training samples kept back to choose the weight decay, at most; a tenth of them where that is fewer."""


@dataclass(frozen=True)
class Item:
    """One sample.

    Attributes:
        key: of it.
        features: [N, D] of its parts, for each kind of features.
        targets: [N, K] share of each class in each part; rows of zeros are unlabelled.
        truth: what predictions are compared with, of any shape.
        grid: parts along each axis; empty where they lie on none.
    """

    key: str
    features: Mapping[str, Tensor]
    targets: Tensor
    truth: Tensor
    grid: tuple[int, ...] = ()


Measure = Callable[[Sequence[Tensor], Sequence[Item]], float]
"""From logits [N, K] of some items to how good they are; more is better."""


@dataclass(frozen=True)
class Learned:
    """Heads for each kind of features.

    Attributes:
        heads: by kind.
        validation: what the chosen head scored on samples kept back, by kind.
        parts: that the heads learned from.
        kept_back: samples.
    """

    heads: Mapping[str, Linear]
    validation: Mapping[str, float]
    parts: int
    kept_back: int

    def said(self, kind: str) -> str:
        """The chosen setting, for a table."""
        return f"weight decay {self.heads[kind].strength:g}"


def learn(
    items: Iterable[Item], count: int, measure: Measure, seed: int, strengths: Sequence[float] = STRENGTHS
) -> Learned:
    """Train the heads.

    Args:
        items: training samples.
        count: of them.
        measure: by which the weight decay is chosen.
        seed: of what is kept.
        strengths: of the weight decay to choose from.

    Raises:
        UserError: too few samples, or none with a label.
    """
    if count < 2:
        raise UserError(f"{count} training samples are too few: one at least is kept back to choose the weight decay")
    back = min(KEPT_BACK, max(1, count // 10))
    held = set(np.random.default_rng(seed).permutation(count)[:back].tolist())
    whole: list[Item] = []
    rows: dict[str, list[Tensor]] = {}
    targets: list[Tensor] = []
    for number, item in enumerate(items):
        if number in held:
            whole.append(item)
            continue
        labelled = (item.targets.sum(1) > 0).nonzero().flatten().cpu()
        widest = max(part.shape[1] for part in item.features.values())
        most = max(1, min(PARTS, NUMBERS // widest) // max(count - back, 1))
        draw = np.random.default_rng((seed, number)).permutation(len(labelled))[:most]
        taken = labelled[torch.from_numpy(np.sort(draw))].to(item.targets.device)
        for kind, part in item.features.items():
            rows.setdefault(kind, []).append(part[taken].clone())
        targets.append(item.targets[taken])
    parts = sum(map(len, targets))
    if not parts or not whole:
        raise UserError("none of the training samples has a label to learn from")
    goal = torch.cat(targets)
    heads, validation = {}, {}
    for kind, kept in rows.items():
        found = [(_judged(head, kind, whole, measure), head) for head in fit(torch.cat(kept), goal, strengths)]
        validation[kind], heads[kind] = max(found, key=lambda pair: pair[0])
    return Learned(heads, validation, parts, len(whole))


def _judged(head: Linear, kind: str, items: Sequence[Item], measure: Measure) -> float:
    value = measure([head(item.features[kind]) for item in items], items)
    return value if np.isfinite(value) else -np.inf
