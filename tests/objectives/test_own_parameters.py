"""Objectives with parameters of their own (decoders, predictors): trained, saved and resumed like everything else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

BYOL = (
    "heads={projector: {prototypes: null, hidden: 32, bottleneck: 16, layers: 2, norm: batch, bias: false, "
    "activation: relu}}",
    "objectives=[{name: byol, other_views: [local], predictor: {prototypes: null, hidden: 32, bottleneck: 16, "
    "layers: 2, norm: batch, bias: false, activation: relu}}]",
    "branches={teacher: {name: ema, batch_statistics: true, momentum: 0.9}}",
    "masking=null",
)
MAE = (
    "heads={}",
    "objectives=[{name: reconstruction, head: decoder}]",
    "heads.decoder={name: decoder, depth: 1, width: 16, heads: 2}",
    "branches={}",
    "views.local_views.count=0",
    "masking={probability: 1.0, ratio: [0.5, 0.5], kind: random, mode: drop}",
)


@pytest.mark.parametrize(
    ("overrides", "own"), [(BYOL, "byol.predictor.mlp.0.weight"), (MAE, "reconstruction.predict.0.weight")]
)
def test_a_run_that_goes_on_is_the_run_that_never_stopped(tiny_recipe, train, tmp_path: Path, overrides, own):
    whole = train(tiny_recipe(*overrides, "train.length=4 steps"), tmp_path / "whole")
    train(tiny_recipe(*overrides, "train.length=4 steps", "train.stop_after=2 steps"), tmp_path / "parts")
    parts = train(tiny_recipe(*overrides, "train.length=4 steps"), tmp_path / "parts")
    assert whole.progress.step == parts.progress.step == 4
    first, second = whole.learner.state_dict(), parts.learner.state_dict()
    assert first.keys() == second.keys() and f"objectives.{own}" in first
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize(
    ("overrides", "own"), [(BYOL, "byol.predictor.mlp.0.weight"), (MAE, "reconstruction.predict.0.weight")]
)
def test_they_move_with_the_first_step(tiny_recipe, train, tmp_path: Path, overrides, own):
    from foundation.run import build
    from foundation.schedules import Clock

    recipe = tiny_recipe(*overrides, "train.length=2 steps", "optimizer.learning_rate=0.01")
    fresh = build.learner(recipe, Clock(2, 1.0)).state_dict()[f"objectives.{own}"]
    moved = train(recipe, tmp_path / "run").learner.state_dict()[f"objectives.{own}"]
    assert not torch.equal(fresh, moved)
