"""What a probe says before its figures are believed, and the figures' own intervals."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from foundation import config
from foundation.data.shards import write_shards
from foundation.errors import UserError
from foundation.paths import RECIPES
from foundation.probes import cautions
from foundation.probes.features import FeatureSet, fingerprints
from foundation.probes.groups import grouped
from foundation.probes.labels import number_classes
from foundation.probes.linear import split
from foundation.probes.scores import score, wilson_interval
from foundation.run.class_token import untrained_class_token
from foundation.run.recipe import Recipe
from foundation.zoo.load import LoadedEncoder


def features(labels, seed=0, views=None):
    views = torch.randn(len(labels), 3, 8, 8, generator=torch.Generator().manual_seed(seed)) if views is None else views
    x, keys = views.flatten(1), tuple(f"s{index // 2}-{index}" for index in range(len(labels)))
    return FeatureSet((x,), x, torch.tensor(labels), keys, ids=torch.arange(len(labels)), prints=fingerprints(views))


def test_splits_that_say_little_are_named():
    train, test = number_classes(features([0, 0, 1, 4]), features([0, 7, 7], seed=1))
    told = cautions.of_splits(train, test)
    assert told == [
        "classes 1, 4 have no test sample: no figure speaks of them",
        "class 7 has no training sample: test samples of it count as wrong",
    ]
    (alone,) = number_classes(features([3, 3, 3]))
    assert "all training samples are of class '3'" in cautions.of_splits(alone, alone)[0]
    train, test = number_classes(features([0, 1]), features([0, 1, 2], seed=1))
    assert "2 samples for 3 classes" in cautions.of_splits(train, test)[0]


def test_a_test_sample_among_the_training_samples_is_found_by_its_content():
    views = torch.rand(6, 3, 40, 70, generator=torch.Generator().manual_seed(0))
    other = torch.rand(3, 3, 40, 70, generator=torch.Generator().manual_seed(1))
    other[1] = views[4]
    train, test = number_classes(features([0, 1] * 3, views=views), features([0, 1, 0], views=other))
    (told,) = cautions.of_splits(train, test)
    assert told.startswith("1 of the 3 test samples is in the training split too") and "'s0-1', as 's2-4'" in told
    assert torch.equal(fingerprints(views[4:5]), fingerprints(views)[4:5]), "whatever stands beside it"
    changed = views.clone()
    changed[2, 0, 39, 69] += 1e-6
    assert (fingerprints(changed) != fingerprints(views)).tolist() == [False, False, True, False, False, False]


def test_leaving_one_out_names_twins_and_classes_of_one_sample():
    views = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    views[5] = views[2]
    (alone,) = number_classes(features([0, 0, 1, 1, 7, 1], views=views))
    single, twins = cautions.of_splits(alone, alone)
    assert single == "class 7 has one sample: with that left out it cannot be found, and counts as wrong"
    assert twins.startswith("2 of the 6 samples have a twin") and "'s1-2'" in twins
    grouped_ = dataclasses.replace(alone, groups=torch.arange(6))
    assert cautions.of_splits(grouped_, grouped_) == [single]


@pytest.mark.parametrize(("name", "told"), [("fsdd-mae-nano", True), ("fsdd-dino-ibot-nano", False)])
def test_a_class_token_that_no_loss_trains_is_named(name, told):
    recipe = config.load(Recipe, (RECIPES / f"{name}.yaml").read_text(), name=name)
    loaded = LoadedEncoder(recipe.encoder.build(), "audio", None, "", None, None, recipe.encoder, config.dump(recipe))
    assert [bool(untrained_class_token(loaded, tokens)) for tokens in ("cls", "both", None, "patches")] == [
        told
    ] * 3 + [False]
    if told:
        assert "--tokens patches" in untrained_class_token(loaded, "cls")[0]
    assert untrained_class_token(dataclasses.replace(loaded, recipe=""), "cls") == []


def test_wilson_and_balanced_accuracy():
    """The third interval is an example of Newcombe (1998)."""
    assert wilson_interval(24, 24) == (pytest.approx(0.8620, abs=1e-4), 1.0)
    assert wilson_interval(0, 10) == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert wilson_interval(81, 263) == (
        pytest.approx(0.2553, abs=1e-4),
        pytest.approx(0.3662, abs=1e-4),
    )  # Newcombe 1998
    assert all(map(math.isnan, wilson_interval(0, 0)))
    found = score(torch.tensor([0, 0, 0, 0, 3]), torch.tensor([0, 0, 0, 3, 3]))
    assert (found.top1, found.balanced) == (0.8, 0.75)


def test_a_group_lies_on_one_side_of_a_split():
    groups = torch.arange(100) // 7
    rows, held = split(100, 0.1, 0, groups)
    assert not set(groups[rows].tolist()) & set(groups[held].tolist())
    assert len(rows) + len(held) == 100 and 10 <= len(held) < 20
    with pytest.raises(UserError, match="one group"):
        split(100, 0.1, 0, torch.zeros(100, dtype=torch.int64))


def test_groups_are_read_from_keys_and_from_json(tmp_path):
    found = features([0, 1, 0, 1, 0])
    assert grouped(found, "^(s[0-9])", ())[0].tolist() == [0, 0, 1, 1, 2]
    assert grouped(found, "s.", ())[1] == 3
    for rule, message in (("(", "no regular expression"), ("^x", "finds nothing in the key 's0-0'")):
        with pytest.raises(UserError, match=message):
            grouped(found, rule, ())
    samples = ({"__key__": key, "json": b'{"who": %d}' % (index % 2)} for index, key in enumerate(found.keys))
    write_shards(samples, tmp_path, "train", samples_per_shard=3)
    assert grouped(found, "json:who", [f"{tmp_path}/train-*.tar"])[0].tolist() == [0, 1, 0, 1, 0]
    with pytest.raises(UserError, match="'s0-0' has no such field"):
        grouped(found, "json:age", [f"{tmp_path}/train-*.tar"])
