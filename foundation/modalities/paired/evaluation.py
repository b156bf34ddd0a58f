"""How a probe sees a sample of several modalities: one of them, as that modality's own evaluation says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from foundation.errors import UserError
from foundation.plugins import resolve

if TYPE_CHECKING:
    from torch import Tensor

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
        from foundation import config

        kind = resolve("foundation.modalities.{name}.views", self.modality).EvaluationConfig
        known = {item.name for item in dataclasses.fields(kind)}
        if unknown := sorted(set(self.settings) - known):
            raise UserError(f"evaluation of {self.modality!r} has no {', '.join(unknown)} (known: {', '.join(known)})")
        return config.from_plain(kind, self.settings, name="evaluation")

    @property
    def decode(self) -> Any:
        """How that modality is read; the others of a sample are not."""
        own = getattr(self.own, "decode", None)
        return own or resolve("foundation.modalities.{name}.decode", self.modality).Config()

    def build(self) -> Callable[[Sequence[Sample]], Tensor]:
        """The function from samples to views."""
        built: Callable[[Sequence[Sample]], Tensor] = self.own.build()
        return built

    def augmented(self) -> Any:
        """Training views of a linear probe."""
        return self.own.augmented()
