"""Parts of point clouds: mean IoU by the protocol of ShapeNetPart (Yi et al. 2016, Qi et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def predicted(logits: Tensor, parts: Sequence[int]) -> Tensor:
    """[P] part of each point, of those that its thing may have; logits [P, K]."""
    own = torch.tensor(sorted(parts), device=logits.device)
    return own[logits[:, own].argmax(1)]


def shape_iou(found: Tensor, truth: Tensor, parts: Sequence[int]) -> float:
    """Mean IoU over the parts that a thing of its kind may have; a part that neither has counts 1.

    Args:
        found: [P] part of each point.
        truth: [P], -1 where unknown: such points do not count.
        parts: of its kind.
    """
    known = truth >= 0
    found, truth = found[known], truth[known]
    values = []
    for part in parts:
        one, other = found == part, truth == part
        union = int((one | other).sum())
        values.append(int((one & other).sum()) / union if union else 1.0)
    return float(np.mean(values))


def means(values: Mapping[str, Sequence[float]]) -> tuple[float, float]:
    """Mean over all things (instance mIoU), and over the kinds of the mean over their things (class mIoU).

    Args:
        values: :func:`shape_iou` of the things of each kind.
    """
    everything = [value for own in values.values() for value in own]
    return float(np.mean(everything)), float(np.mean([np.mean(own) for own in values.values() if len(own)]))
