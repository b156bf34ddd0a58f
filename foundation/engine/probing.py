"""Probes of a run in training: the encoder is measured as it stands, and the run does not notice."""

from __future__ import annotations

from typing import Any

import torch

from foundation.engine.build import Placement
from foundation.recipe import Recipe


def run_probe(probe: Any, recipe: Recipe, learner: Any, place: Placement) -> dict[str, float]:
    """Measure the first teacher's encoder (the student's where no teacher has one) without disturbing the run."""
    encoder = next((t.encoder for t in learner.teachers.values() if hasattr(t, "encoder")), learner.student.encoder)
    kept = torch.get_rng_state()
    was_training = encoder.training
    try:
        return probe.build().measure(
            encoder.eval(), modality=recipe.views.modality, evaluation=recipe.views.evaluation(), device=place.device
        )
    finally:
        encoder.train(was_training)
        torch.set_rng_state(kept)
