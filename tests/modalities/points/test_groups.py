"""Groups of points are searched once per view, and anew where the view is another one."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from foundation import config, paths
from foundation.modalities.points import neighbours
from foundation.modalities.points.tokenizer import Config
from foundation.run.recipe import Recipe
from foundation.run.rehearsal import Rehearsal, random_batch


@pytest.fixture
def searches(monkeypatch) -> Counter[int]:
    """Searches for centres, by the number of points of a cloud."""
    found: Counter[int] = Counter()
    search = neighbours.farthest_points

    def counted(points: torch.Tensor, count: int) -> torch.Tensor:
        found[points.shape[1]] += 1
        return search(points, count)

    monkeypatch.setattr(neighbours, "farthest_points", counted)
    return found


@pytest.mark.parametrize("name", ["quickstart-points", "point-mae"])
def test_a_step_searches_each_view_once(name, searches):
    """Student, teacher and the targets of a reconstruction ask for the same groups."""
    settings = ["data.samples_per_epoch=1000", "train.batch_size=2", "train.device=cpu", "train.accumulate=1"]
    small = ["encoder.preset=null", "encoder.width=48", "encoder.depth=1", "encoder.heads=2"]
    recipe = config.load(Recipe, paths.recipe(name), settings + (small if name == "point-mae" else []), own=True)
    step, batch = Rehearsal(recipe, 2), random_batch(recipe, 2)
    searches.clear()
    step(batch)
    assert searches == {view.data.shape[2]: 1 for view in batch.views.values()}
    step(random_batch(recipe, 2))
    assert set(searches.values()) == {2}


def test_a_changed_view_other_groups_and_inference_are_searched_anew(searches):
    view = torch.randn(2, 3, 96)
    tokenizers = [Config(stride=16, group_size=size).build(24) for size in (8, 8, 16)]
    first, again, larger = (tokenizer.groups(view) for tokenizer in tokenizers)
    assert torch.equal(first[0], again[0]) and larger[0].shape[2] == 16 and searches[96] == 2
    view += torch.randn_like(view)
    changed = tokenizers[0].groups(view)
    assert searches[96] == 3 and torch.equal(changed[1], Config(stride=16, group_size=8).coordinates_of(view))
    before = searches[96]
    with torch.inference_mode():
        tokenizers[0].groups(view)
    assert searches[96] == before + 1


def test_nothing_is_kept_of_a_view_that_is_gone(searches):
    before = len(neighbours._SEARCHED)
    view = torch.randn(2, 3, 96)
    Config(stride=16, group_size=8).build(24).groups(view)
    assert len(neighbours._SEARCHED) == before + 1
    del view
    assert len(neighbours._SEARCHED) == before
