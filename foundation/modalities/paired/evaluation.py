"""How a probe sees a sample of several modalities: one of them, as that modality's own evaluation says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from foundation.modalities.parts import decode_config, evaluation_config
from foundation.types import Sample


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """One modality of a sample, as its own evaluation says."""

    modality: str = "image"
    """Folder name in ``foundation/modalities``."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Fields of that modality's ``EvaluationConfig``, as plain values."""

    @property
    def own(self) -> Any:
        """The modality's ``EvaluationConfig``.

        Raises:
            UserError: settings that it does not have.
        """
        return evaluation_config(self.modality, self.settings)

    @property
    def decode(self) -> Any:
        """How that modality is read; the others of a sample are not."""
        return decode_config(self.modality, self.own)

    def build(self) -> Callable[[Sequence[Sample]], Tensor]:
        """The function from samples to views."""
        built: Callable[[Sequence[Sample]], Tensor] = self.own.build()
        return built
