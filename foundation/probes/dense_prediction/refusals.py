"""Why a dense question cannot be asked of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from foundation.errors import UserError
from foundation.modalities.parts import evaluation_shape
from foundation.probes.dense_prediction.reading import CropsMaps, Placed, chosen, grid_of, lacking


def of_tokens(subject: Any) -> str | None:
    """Why a model says nothing of the parts of a sample, in one sentence; None: it may.

    Args:
        subject: a ``Subject`` of :mod:`foundation.tasks.base`.
    """
    encoder = subject.loaded.encoder
    return None if isinstance(encoder, Placed) else "this encoder gives one vector for a sample, and none for its parts"


def of_planes(subject: Any) -> str | None:
    """Why the patches of a model say nothing of places in a picture, in one sentence; None: they do.

    Args:
        subject: a ``Subject`` of :mod:`foundation.tasks.base`.
    """
    loaded = subject.loaded
    if reason := of_tokens(subject):
        return reason
    if not isinstance(subject.evaluation.build(), CropsMaps):
        return f"places in a picture are asked for, and the model looks at {loaded.modality}"
    try:
        grid = grid_of(loaded.encoder, evaluation_shape(loaded.modality, subject.evaluation)[1:])
    except UserError as error:
        return str(error)
    if len(grid) != 2:
        return f"places in a picture are asked for, and the patches of this model ({loaded.modality}) lie on no plane"
    return None


def of_members(subject: Any, wanted: str | None, known: Sequence[str], what: str, splits: Sequence[Any]) -> str | None:
    """Why shards cannot answer: a split has no such member; None: all have.

    Args:
        subject: likewise.
        wanted: name of the member that the user gave; None: any of ``known``.
        known: where it is looked for.
        what: begins the sentence, such as ``label maps are``.
        splits: that need it.
    """
    for split in splits:
        try:
            patterns = subject.shards(split)
            if chosen(wanted, known, patterns) is None:
                return lacking(what, [wanted] if wanted else known, patterns)
        except UserError as error:
            return str(error)
    return None
