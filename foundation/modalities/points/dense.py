"""Features of single points: those of the groups around them, for parts, segmentation and matching."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.modalities.points.evaluation import EvaluationConfig
from foundation.modalities.points.geometry import normalised
from foundation.modalities.points.neighbours import per_point
from foundation.types import Sample

CHUNK = 16_384
"""Points that are worked out at a time: a scan of a million, with features of a thousand numbers, would fill memory."""


def spread(
    tokens: Tensor, coordinates: Tensor, samples: Sequence[Sample], evaluation: EvaluationConfig
) -> list[dict[str, NDArray[np.floating]]]:
    """Features of every point of some clouds, also of those that the evaluation view leaves out.

    Args:
        tokens: [B, N, D] of the evaluation views.
        coordinates: [B, N, 3] of the tokens, in the coordinates of those views.
        samples: B samples with ``points`` float32 [P, 3 + F] and, by the decoder,
            ``points_origin``.
        evaluation: how the views were made.

    Returns:
        For each sample ``points``, [P, 3] as in the file (float32; float64 where the cloud lies far from zero), and
        ``features``, float16 [P, D]: a mean of the three nearest groups, weighted by the inverse square of the
        distance.
    """
    found = []
    for feature, centre, sample in zip(tokens.cpu(), coordinates.cpu(), samples, strict=True):
        points = sample["points"].numpy()
        inside = torch.from_numpy(normalised(points, evaluation.normalise)[0][:, :3].copy())
        parts = [per_point(feature[None], centre[None], part[None])[0].half() for part in inside.split(CHUNK)]
        origin = sample.get("points_origin")
        in_file = points[:, :3].copy() if origin is None or not origin.any() else points[:, :3] + origin
        found.append({"points": in_file, "features": torch.cat(parts).numpy()})
    return found
