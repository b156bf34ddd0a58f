"""Simple features of a sample of several modalities: those of the one that the probe sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from foundation.modalities.parts import simple_features


def features(evaluation: Any) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """Simple features by name, as that modality's own file says."""

    return simple_features(evaluation.modality, evaluation.own)
