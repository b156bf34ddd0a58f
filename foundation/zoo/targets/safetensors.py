"""Our own export: weights as safetensors with a card beside them, which ``foundation.load`` reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foundation import config
from foundation.version import VERSION
from foundation.zoo.export import CARD_FORMAT, Card, write_weights
from foundation.zoo.load import load_encoder
from foundation.zoo.targets.base import Reader, Source, outputs_of, traceable


@dataclass(frozen=True, kw_only=True)
class Config:
    """Safetensors with our card."""

    def build(self) -> Safetensors:
        """The target."""
        return Safetensors()


class Safetensors:
    """Written by :func:`foundation.zoo.export.write_weights`, read by :func:`foundation.zoo.load.load_encoder`."""

    packages: tuple[str, ...] = ()
    tolerance = 1e-6
    ending = ".safetensors"

    def beside(self, path: Path) -> Sequence[Path]:
        """The card."""
        return [path.with_suffix(".json")]

    def refusal(self, source: Source) -> str:
        """Every encoder of ours can be written."""
        return ""

    def write(self, source: Source, path: Path) -> Sequence[str]:
        """Weights and card, with the recipe that the encoder was trained with."""
        loaded, said = source.loaded, source.card()
        card: Card = {
            "format": CARD_FORMAT,
            "name": loaded.name,
            "branch": loaded.branch,
            "step": loaded.step,
            "modality": source.modality,
            "encoder": said["encoder"],
            "evaluation": config.to_plain(source.evaluation),
            "parameters": said["parameters"],
            "file": path.name,
            "sha256": "",
            "computed": dict(loaded.computed),
            "recipe": loaded.recipe,
            "foundation_version": VERSION,
            "stage": loaded.stage,
        }
        write_weights(path, source.encoder.state_dict(), card)
        return []

    def read(self, path: Path) -> Reader:
        """As ``foundation.load`` reads it."""
        loaded = load_encoder(path)
        encoder = traceable(loaded.encoder, loaded.own[0])
        return lambda view: outputs_of(encoder, view)
