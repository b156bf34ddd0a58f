"""The grid of linear heads: the gradient, what it learns, and where it chooses."""

from __future__ import annotations

import pytest
import torch

from foundation.errors import UserError
from foundation.probes import linear
from foundation.probes.features import FeatureSet
from foundation.probes.linear import Grid, Settings, fit, split


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


def test_a_step_is_torch_sgd_on_cross_entropy():
    settings = Settings(learning_rates=(0.01, 0.2), blocks=(1,), pooling=(False,), batch_size=16)
    torch.manual_seed(0)
    grid = Grid(settings, [(1, False)], [6], 3, total_steps=10)
    heads = [torch.nn.Linear(6, 3) for _ in settings.learning_rates]
    groups = []
    for place, (head, rate) in enumerate(zip(heads, settings.learning_rates, strict=True)):
        columns = grid._weights[0][:, 3 * place : 3 * place + 3]
        head.weight.data, head.bias.data = columns[:-1].T.clone(), columns[-1].clone()
        groups.append({"params": head.parameters(), "lr": rate * 16 / 256})
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for _ in range(10):
        x, labels = torch.randn(16, 6), torch.randint(3, (16,))
        grid.step([x], labels)
        optimizer.zero_grad()
        sum(torch.nn.functional.cross_entropy(head(x), labels) for head in heads).backward()
        optimizer.step()
        schedule.step()
    x = torch.randn(4, 6)
    torch.testing.assert_close(grid.logits(0, x), torch.stack([head(x) for head in heads], dim=1).detach())


def test_fitted_heads_have_no_denormal_numbers_and_the_weights_are_the_same_without_them(monkeypatch):
    labels = torch.arange(64) % 3
    x = 20 * torch.eye(3)[labels] + torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    weights, counted = [], []
    for cleaned in (True, False):
        if not cleaned:
            monkeypatch.setattr(linear, "hardshrink", lambda values, _: values)
        grid = Grid(Settings(learning_rates=(0.1, 10.0), blocks=(1,), pooling=(False,)), [(1, False)], [3], 3, 2000)
        found = 0
        for _ in range(1200):
            grid.step([x], labels)
            velocity = grid._velocity[0].abs()
            found += int(((velocity > 0) & (velocity < 1e-37)).sum())
        counted.append(found)
        weights.append(grid._weights[0])
    assert counted[0] == 0 < counted[1]
    assert torch.equal(*weights)


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


def test_the_head_is_chosen_without_the_test_split():
    train, test = blobs(300, 0, noise=4), blobs(100, 1, noise=4)
    settings = Settings(epochs=5, learning_rates=(1e-5, 1e-2, 1e-1))
    result = fit(train, test, settings)
    best = max(range(len(result.heads)), key=lambda place: result.validation[place])
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
