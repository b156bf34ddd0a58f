"""Why a dense question cannot be asked of a model."""

from __future__ import annotations

from typing import Any

from foundation.errors import UserError
from foundation.modalities.parts import evaluation_shape
from foundation.probes.dense_prediction.reading import CropsMaps, grid_of


def of_planes(subject: Any) -> str | None:
    """Why the patches of a model say nothing of places in a picture, in one sentence; None: they do.

    Args:
        subject: a ``Subject`` of :mod:`foundation.tasks.base`.
    """
    loaded = subject.loaded
    if not isinstance(subject.evaluation.build(), CropsMaps):
        return f"places in a picture are asked for, and the model looks at {loaded.modality}"
    try:
        grid = grid_of(loaded.encoder, evaluation_shape(loaded.modality, subject.evaluation)[1:])
    except UserError as error:
        return str(error)
    if len(grid) != 2:
        return f"places in a picture are asked for, and the patches of this model ({loaded.modality}) lie on no plane"
    return None
