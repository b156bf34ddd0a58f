"""The grid of linear heads: the gradient, what it learns, and where it chooses."""

from __future__ import annotations

import pytest
import torch

from foundation.errors import UserError
from foundation.probes.features import FeatureSet
from foundation.probes.grid import Grid
from foundation.probes.linear import Inputs, Settings, basis, fit, split


def blobs(count, seed, noise=1.0, layers=4, width=12, classes=5):
    """Only the last block separates the classes; the earlier ones are noise."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(classes, (count,), generator=generator)
    good = centres[labels] + noise * torch.randn(count, width, generator=generator)
    earlier = [torch.randn(count, width, generator=generator) for _ in range(layers - 1)]
    return FeatureSet(
        cls=(*earlier, good),
        patches=torch.randn(count, width, generator=generator),
        labels=labels,
        keys=tuple(map(str, range(count))),
    )


def test_it_learns_a_separable_problem():
    result = fit(blobs(600, 0), blobs(200, 1), Settings(epochs=10))
    assert len(result.heads) == len(result.test) == 64
    assert result.top1 > 0.95
    assert result.interval[0] <= result.top1 <= result.interval[1]
    assert result.predictions.shape == (200,)


def test_a_small_split_is_passed_through_until_the_heads_are_fitted(monkeypatch):
    counted = []
    step = Grid.step
    monkeypatch.setattr(Grid, "step", lambda self, *given: (counted.append(1), step(self, *given))[1])
    small = {"learning_rates": (1e-3,), "blocks": (1,), "pooling": (False,)}
    fit(blobs(60, 0), blobs(20, 1), Settings(**small))
    assert len(counted) == 2000, "one step an epoch"
    counted.clear()
    fit(blobs(60, 0), blobs(20, 1), Settings(**small, epochs=3))
    assert len(counted) == 3, "what is asked for is done"


def test_the_head_that_wins_is_as_if_all_had_trained_to_the_end():
    train, test = blobs(400, 0, noise=4), blobs(200, 1, noise=4)
    grid = {"blocks": (1,), "epochs": 400}
    whole, halved = (fit(train, test, Settings(**grid, prune=prune)) for prune in (False, True))
    assert set(whole.steps) == {1200}
    assert sorted(halved.steps) == sorted([100, 200, 300] * 8 + [600, 1200] * 4)
    place = halved.heads.index(halved.chosen)
    assert halved.top1 == whole.test[place] and halved.validation[place] == whole.validation[place]
    assert halved.validation[place] == max(whole.validation), "no better head has left"
    assert [score is None for score in halved.test] == [steps < 1200 for steps in halved.steps]


def seen(inputs, features, kind):
    """Numbers that the heads of a kind see, and the one of the bias."""
    found = [part for part in inputs.segments(3) if part.heads.start <= 3 * kind < part.heads.stop]
    return torch.cat([inputs(features)[:, part.columns] for part in found] + [inputs(features)[:, -1:]], dim=1)


def test_every_kind_of_head_sees_its_tokens_and_nothing_else():
    features = blobs(6, 0, width=5)
    settings = Settings(blocks=(4, 1, 2), pooling=(False, True))
    inputs = Inputs.of(settings, features, 5, None, "cpu")
    assert inputs(features).shape == (6, 26)
    for kind, (blocks, pooling) in enumerate(inputs.kinds):
        wanted = torch.cat([*features.cls[-blocks:], *[features.patches] * pooling, torch.ones(6, 1)], dim=1)
        assert sorted(seen(inputs, features, kind)[0].tolist()) == sorted(wanted[0].tolist())
    assert len(inputs.segments(3)) == 4, "tokens of blocks 4 and 3, 2, 1, and the mean patch token: all heads at once"
    alone = Inputs.of(Settings(blocks=(1,), pooling=(False,)), features, 5, None, "cpu")
    assert alone(features).shape == (6, 6), "without the token that no head sees"


def test_some_kinds_in_a_basis_of_their_own_leave_the_tokens_to_the_others():
    features = blobs(45, 0, width=30)
    inputs = Inputs.of(Settings(), features, 5, 50, "cpu")
    assert [own is None for own in inputs.bases] == [True, False, False, False]
    assert inputs(features).shape == (45, 150 + 3 * 45 + 1)
    plain = Inputs.of(Settings(), features, 5, None, "cpu")
    for kind in range(4):
        x, z = seen(plain, features, kind), seen(inputs, features, kind)
        torch.testing.assert_close(z @ z.T, x @ x.T, rtol=1e-4, atol=1e-2)


def test_more_numbers_than_samples_are_the_same_problem_in_coordinates_of_their_span():
    train, test = blobs(45, 0, width=400), blobs(50, 1, width=400)
    settings = Settings(blocks=(1, 4), pooling=(True, False))
    wide = Inputs.of(settings, train, 5, None, "cpu")
    narrow = Inputs.of(settings, train, 5, 8, "cpu")
    assert wide.kinds == narrow.kinds == ((1, False), (4, False), (4, True), (1, True))
    assert [own.shape for own in narrow.bases] == [(400, 45), (1600, 45), (2000, 45), (800, 45)]
    assert wide(test).shape == (50, 2001) and narrow(test).shape == (50, 4 * 45 + 1)
    for kind in range(4):
        x, q = seen(wide, train, kind), seen(wide, test, kind)
        z, p = seen(narrow, train, kind), seen(narrow, test, kind)
        # What heads learn and say is in the products of samples with training samples.
        torch.testing.assert_close(z @ z.T, x @ x.T, rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(p @ z.T, q @ x.T, rtol=1e-4, atol=1e-2)
    assert basis(torch.randn(45, 44), 80, 8) is None
    assert basis(torch.randn(45, 46), 80, 8) is None, "one column less is not worth a decomposition"


def test_the_head_is_chosen_without_the_test_split():
    train, test = blobs(300, 0, noise=4), blobs(100, 1, noise=4)
    settings = Settings(epochs=5, learning_rates=(1e-5, 1e-2, 1e-1))
    result = fit(train, test, settings)
    ends = [place for place, steps in enumerate(result.steps) if steps == max(result.steps)]
    best = max(ends, key=lambda place: result.validation[place])
    assert result.chosen == result.heads[best]
    assert result.top1 == result.test[best]
    scrambled = fit(train, FeatureSet(test.cls, test.patches, test.labels.roll(1), test.keys), settings)
    assert scrambled.chosen == result.chosen
    on_test = fit(train, test, Settings(epochs=5, learning_rates=(1e-5, 1e-2, 1e-1), select_on="test"))
    assert on_test.validation is None
    assert on_test.top1 == max(on_test.test)


def test_the_split_is_disjoint_and_seeded():
    rows, held = split(101, 0.1, seed=3)
    assert sorted([*rows.tolist(), *held.tolist()]) == list(range(101))
    assert len(held) == 10
    assert torch.equal(held, split(101, 0.1, seed=3)[1])
    assert not torch.equal(held, split(101, 0.1, seed=4)[1])


def test_the_same_seed_gives_the_same_numbers():
    train, test, settings = blobs(200, 0), blobs(60, 1), Settings(epochs=2)
    assert fit(train, test, settings).test == fit(train, test, settings).test


def test_standardising_rescues_features_of_wild_scale():
    def wild(features):
        scale = torch.logspace(-4, 1, features.patches.shape[1])
        return FeatureSet((*features.cls[:-1], features.cls[-1] * scale + 100), *_rest(features))

    def _rest(features):
        return features.patches, features.labels, features.keys

    train, test = wild(blobs(400, 0)), wild(blobs(100, 1))
    small = {"epochs": 5, "blocks": (1,), "pooling": (False,)}
    plain = fit(train, test, Settings(**small)).top1
    scaled = fit(train, test, Settings(**small, treatment="standardised")).top1
    assert scaled > plain + 0.1


def test_augmented_features_are_asked_for_once_per_epoch():
    train, asked = blobs(100, 0), []

    def augmented(epoch):
        asked.append(epoch)
        return train

    fit(train, blobs(20, 1), Settings(epochs=3), augmented=augmented)
    assert asked == [0, 1, 2]


def test_mistakes_are_named():
    with pytest.raises(UserError, match="last 4 blocks"):
        fit(blobs(50, 0, layers=1), blobs(20, 1, layers=1), Settings())
    broken = blobs(50, 0)
    broken.cls[-1][7] = float("nan")
    with pytest.raises(UserError, match="1 of 50 train features"):
        fit(broken, blobs(20, 1), Settings())
    with pytest.raises(UserError, match="learning_rates"):
        Settings(learning_rates=(0.0,))
