"""Matrices of prototype scores [M, K], counted while a real step makes and frees them: which are alive at once."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from foundation.engine.learner import Learner
from foundation.run.rehearsal import STEP, Rehearsal, random_batch
from foundation.types import Batch

PROTOTYPES = 4099  # prime: nothing else is as large


def alive(learner: Learner, batch: Batch, sizes: dict[str, int], watched: bool) -> dict[str, int]:
    """Most blocks of memory of each size in bytes that were alive at once in a forward and backward pass."""
    now, most = dict.fromkeys(sizes.values(), 0), dict.fromkeys(sizes.values(), 0)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        with torch.autocast("cpu", torch.bfloat16):
            result = learner(batch, STEP, watched)
        result.loss.backward()
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]" and abs(event.nbytes()) in now:
            size = abs(event.nbytes())
            now[size] += 1 if event.nbytes() > 0 else -1
            most[size] = max(most[size], now[size])
    return {name: most[size] for name, size in sizes.items()}


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize(("target", "whole"), [("centering", 0), ("sinkhorn", 1)])
def test_no_second_float32_matrix_of_scores_is_alive(tiny_recipe, monkeypatch, target, whole, watched):
    """In 16 bits there are the teacher's scores, the student's and their gradient; in float32 Sinkhorn's targets alone,
    which depend on all rows."""
    monkeypatch.setattr("foundation.chunks.ELEMENTS", {"cpu": 2 * PROTOTYPES})
    patch = f"patch: {{prototypes: {PROTOTYPES}, hidden: 32, bottleneck: 16}}"
    recipe = tiny_recipe(
        f"heads={{cls: {{prototypes: 32, hidden: 32, bottleneck: 16}}, {patch}}}",
        f"objectives=[{{name: dino}}, {{name: ibot, head: patch, target: {target}}}]",
        "train.precision=bfloat16",
    )
    step, batch = Rehearsal(recipe, 8), random_batch(recipe, 8)
    scores = batch.masks["global", "masking"].indices.numel() * PROTOTYPES
    assert scores > 20 * PROTOTYPES
    found = alive(step.learner, batch, {"float32": 4 * scores, "bfloat16": 2 * scores}, watched)
    assert found == {"float32": whole, "bfloat16": 3}
