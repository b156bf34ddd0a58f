"""Activation checkpointing under autocast: the same losses, whatever a block keeps."""

from __future__ import annotations

import pytest
import torch

from foundation.measure.recipes import dinov2
from foundation.run.rehearsal import Rehearsal, random_batch


@pytest.mark.parametrize("kept", ["selective", "full"])
def test_what_is_computed_again_in_half_precision_is_the_same(kept):
    """The last block is called twice in a step, once for each kind of view: autocast casts its weights once only."""
    losses = []
    for what in ("none", kept):
        words = ["train.precision=bfloat16", "train.device=cpu", f"parallel.activation_checkpointing={what}"]
        rehearsal = Rehearsal(recipe := dinov2("small", 2, *words, "encoder.drop_path=0.3", tiny=True), 2)
        torch.manual_seed(0)
        batch = random_batch(recipe, 2)
        torch.manual_seed(1)
        losses.append([float(rehearsal(batch)) for _ in range(2)])
    assert losses[0] == losses[1]
