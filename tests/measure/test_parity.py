"""Comparing a device with the CPU: nothing lies between the CPU and itself, and what does is found."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from foundation.measure import parity
from foundation.measure.recipes import dinov2
from foundation.run.rehearsal import Rehearsal, random_batch

CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "recipe"), [("letters", "quickstart"), ("calls", "quickstart-audio"), ("wires", "quickstart-points")]
)
def test_the_cpu_is_level_with_itself(data, recipe, tmp_path):
    found = parity.compare(data, recipe, CPU, tmp_path / "shards", 4, 0)
    assert found.pop("within") == "yes"
    assert set(found) == set(parity.TOLERANCES) and all(value == 0 for value in found.values())


def test_a_difference_shows_where_it_is():
    recipe = dinov2("small", 2, "train.precision=float32", "train.device=cpu", tiny=True)
    torch.manual_seed(0)
    batch = random_batch(recipe, 2)
    one, other = Rehearsal(recipe, 2), Rehearsal(recipe, 2)
    same = parity.steps_apart(one, other, batch, batch)
    assert same["loss"] == same["gradients"] == same["step"] == 0
    views = {name: replace(view, data=view.data + torch.randn_like(view.data)) for name, view in batch.views.items()}
    changed = replace(batch, views=views)
    apart = parity.steps_apart(Rehearsal(recipe, 2), Rehearsal(recipe, 2), batch, changed)
    assert apart["loss"] > 0 and all(apart[name] > parity.TOLERANCES[name] for name in ("gradients", "step"))
    views = parity.views_apart(batch, changed)
    assert views["views"] > parity.TOLERANCES["views"] and views["views_mean"] > parity.TOLERANCES["views_mean"]
    mask = batch.masks["global", "masking"]
    other_mask = replace(mask, masked=~mask.masked)
    assert parity.masks_apart(batch, replace(batch, masks={("global", "masking"): other_mask})) == mask.masked.numel()
