"""What loading gives: an encoder that is ready to use, and how it is fed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foundation import config
from foundation.errors import UserError
from foundation.modalities.parts import check_evaluation, own_evaluation
from foundation.plugins import resolve
from foundation.seeded import seeded
from foundation.zoo.export import without_download


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder in evaluation mode and how to feed it.

    Attributes:
        encoder: on the device, without gradients.
        modality: folder name in ``foundation/modalities``.
        evaluation: the modality's ``EvaluationConfig``.
        description: one line for a person.
        sha256: of the weights' file, or None where there is none.
        folder: where results about this model belong; None for a model that has no folder of the user's.
        config: the encoder's Config, to build an untrained twin.
        recipe: text of the one that it was trained with; empty where that is not known.
        stage: of that recipe, from 0.
        name: of the run and the branch, or of the model of timm or open_clip.
        branch: of the run; empty for a model of timm.
        step: optimiser steps done.
        computed: device, processor and precision of the training, where known.
        card: what is known of it, as plain values: of a model of the zoo its entry, of an export its card.
        heads: reads the heads that it was trained with, by ``HEAD.NAME``; None where there are none.
    """

    encoder: nn.Module
    modality: str
    evaluation: Any
    description: str
    sha256: str | None
    folder: Path | None
    config: Any
    recipe: str = ""
    stage: int = 0
    name: str = ""
    branch: str = ""
    step: int = 0
    computed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    card: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    heads: Callable[[], dict[str, torch.Tensor]] | None = None

    @property
    def published(self) -> str | None:
        """Source of published weights, see :class:`foundation.encoders.protocol.EncoderConfig`; None where they are
        those of a run or an export."""
        found: str | None = self.config.published if self.sha256 is None else None
        return found

    @property
    def own(self) -> tuple[str, Any]:
        """Modality and ``EvaluationConfig`` of what the encoder is fed: of samples of several sensors, of the one that
        probes look at."""
        return own_evaluation(self.modality, self.evaluation)

    def untrained(self, seed: int = 0) -> nn.Module:
        """The same encoder with random weights, in evaluation mode; published ones are neither fetched nor taken."""
        with seeded(seed):
            return without_download(self.config).build().eval().requires_grad_(False)


def evaluation_of(modality: str, plain: Mapping[str, Any], source: str) -> Any:
    """The ``EvaluationConfig`` that a card says; keys of newer versions are let through.

    Raises:
        UserError: it is none, or its view is too large.
    """
    try:
        kind = resolve("foundation.modalities.{name}.views", modality).EvaluationConfig
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    known = {item.name for item in dataclasses.fields(kind)}
    evaluation = config.from_plain(kind, {key: value for key, value in plain.items() if key in known}, name=source)
    check_evaluation(modality, evaluation, source)
    return evaluation
