"""Simple features of a sample of several modalities: those of the one that the probe sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def features(evaluation: Any) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """Simple features by name, as that modality's own room says."""
    from foundation.modalities.parts import simple_features

    return simple_features(evaluation.modality, evaluation.own)
