"""``foundation.evaluate`` and ``foundation.list_models``: what the commands say, as values."""

from __future__ import annotations

import pytest
import torch

import foundation
from foundation import config
from foundation.data.write import write_shards
from foundation.errors import UserError
from foundation.run.recipe import Recipe
from foundation.zoo.export import write_export
from tests.finetune.conftest import RECIPE, samples


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A model and patterns of training and test shards."""
    folder = tmp_path_factory.mktemp("evaluate")
    recipe = config.load(Recipe, RECIPE)
    torch.manual_seed(0)
    model = write_export(folder / "m" / "small.safetensors", recipe.encoder.build().state_dict(), recipe, "student", 0)
    write_shards(samples(60, 0), folder / "train", "train")
    write_shards(samples(24, 1), folder / "test", "test")
    return model, str(folder / "train" / "*.tar"), str(folder / "test" / "*.tar")


def test_scores_are_those_of_the_tasks(there, tmp_path):
    model, train, test = there
    report = foundation.evaluate(
        model, train=train, test=test, tasks=["knn", "rank"], set={"knn.k": [5]}, out=tmp_path / "out", cached=False
    )
    assert list(report.scores) == ["knn", "rank"] and not report.left_out
    knn = report.scores["knn"]
    lines = repr(report).splitlines()
    assert lines[1].split()[:3] == ["knn", "top1", f"{100 * knn.value:.1f}"] and "RankMe" in repr(report)
    assert knn.n == 24 and 0 <= knn.value <= 1 and knn.interval and report.folder == tmp_path / "out"
    assert (tmp_path / "out" / "index.html").is_file()
    loaded = foundation.load(model)
    again = foundation.evaluate(loaded, train=train, test=test, tasks="knn", set={"knn.k": [5]}, cached=False)
    assert again.scores["knn"].value == knn.value and again.folder is None
    few = foundation.evaluate(loaded, train=train, test=test, tasks="knn", limit=9, cached=False)
    assert few.scores["knn"].n == 9


def test_words_that_mean_nothing_are_refused(there):
    model, train, test = there
    with pytest.raises(UserError, match=r"no setting .limits.*limit"):
        foundation.evaluate(model, train=train, test=test, limits=3)
    with pytest.raises(UserError, match="knnn"):
        foundation.evaluate(model, train=train, test=test, tasks="knnn")


def test_models_are_listed_by_words_modality_or_a_function():
    cards = foundation.list_models()
    names = [card.name for card in cards]
    assert names == sorted(names)
    assert foundation.list_models("no model is called so") == []
    assert foundation.list_models(lambda card: False) == []
    assert foundation.list_models(lambda card: True) == cards
    for card in cards:
        assert card in foundation.list_models(card.name)
        assert card in foundation.list_models(modality=card.modality)
