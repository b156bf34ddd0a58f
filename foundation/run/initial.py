"""Weights that a run starts from, in place of random ones: an encoder of the same kind, or of another modality."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from foundation.errors import UserError
from foundation.zoo.load import load_encoder


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where the student's encoder gets its first weights; heads always start at random."""

    weights: str
    """A run folder, a checkpoint folder, an exported ``.safetensors``, or ``timm:NAME`` for the published weights of a
    timm model (``timm:NAME,weights=FILE.safetensors`` from a file), or likewise the image tower of an open_clip model
    (``open_clip:NAME,pretrained=TAG``). They must fit, shape by shape, but may lack the
    encoder's registers, which then start at random; those of another modality are adapted where there is a way (clips
    take those of images)."""
    branch: str | None = None
    """Which encoder of a run folder or checkpoint, such as ``student``; None: the one that it was measured by."""
    how: str | None = None
    """How weights of another modality are adapted, where there are several ways; None: the modality's default."""

    def apply(self, encoder: Any) -> None:
        """Load the weights into an encoder, in place; into each tower of one that has ``towers``.

        Raises:
            UserError: the weights cannot be read, do not fit, or belong to a modality that nothing leads from.
        """
        planned = any(weight.is_meta for weight in encoder.parameters())
        with torch.device("cpu"):  # a dry run builds on the meta device: what does not fit is refused there as well
            loaded = load_encoder(self.weights, branch=self.branch, fetch=not planned)
        towers = encoder.towers.values() if encoder.capabilities.towers else [encoder]
        for part in towers:
            self._fill(part, loaded)

    def _fill(self, encoder: Any, loaded: Any) -> None:
        modality = encoder.modality
        if modality != loaded.modality:
            self._adapt(encoder, modality, loaded)
            return
        there, wanted = encoder.adopted(loaded.encoder.state_dict()), encoder.state_dict()
        problems = sorted(there.keys() ^ wanted.keys())
        problems += [name for name in wanted if name in there and there[name].shape != wanted[name].shape]
        if problems:
            more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise UserError(
                f"initial.weights {self.weights} do not fit the encoder; different are {', '.join(problems[:5])}{more}"
            )
        if not any(weight.is_meta for weight in encoder.parameters()):
            encoder.load_state_dict(there)

    def _adapt(self, encoder: nn.Module, modality: str, loaded: Any) -> None:
        name = f"foundation.modalities.{modality}.inflate"
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise UserError(
                f"initial.weights {self.weights} are of {loaded.modality}, the encoder is of {modality}, and there is "
                "no way from one to the other"
            ) from error
        if any(weight.is_meta for weight in encoder.parameters()):
            return
        module.inflate(encoder, loaded.encoder, **({} if self.how is None else {"how": self.how}))
