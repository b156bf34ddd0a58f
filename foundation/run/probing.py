"""Probes of a run in training: the encoder is measured as it stands, and the run does not notice."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch

from foundation.parallel.placement import Placement
from foundation.run.recipe import Recipe


@runtime_checkable
class LooksAhead(Protocol):
    """A probe that can say before the first step whether its data will do."""

    def look_ahead(self, *, modality: str, evaluation: Any) -> list[str]:
        """Warnings, a sentence each.

        Args:
            modality: folder name in ``foundation/modalities``.
            evaluation: that modality's ``EvaluationConfig``.

        Raises:
            UserError: the probe could not be measured.
        """


def look_ahead(recipe: Recipe) -> list[str]:
    """What the recipe's probes warn of; those that cannot tell are left out.

    Raises:
        UserError: one of them could not be measured, hours later.
    """
    modality, evaluation = recipe.views.modality, recipe.views.evaluation()
    probes = [probe.build() for probe in recipe.probes]
    able = [probe for probe in probes if isinstance(probe, LooksAhead)]
    return [f"probes: {line}" for probe in able for line in probe.look_ahead(modality=modality, evaluation=evaluation)]


def run_probe(probe: Any, recipe: Recipe, learner: Any, place: Placement) -> dict[str, float]:
    """Measure the encoder of the measured branch without disturbing the run."""
    encoder = learner.branch().encoder
    kept = torch.get_rng_state()
    was_training = encoder.training
    try:
        return probe.build().measure(
            encoder.eval(), modality=recipe.views.modality, evaluation=recipe.views.evaluation(), device=place.device
        )
    finally:
        encoder.train(was_training)
        torch.set_rng_state(kept)
