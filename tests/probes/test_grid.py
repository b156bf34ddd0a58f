"""Linear heads that train side by side: the gradient, denormal numbers, and who leaves."""

from __future__ import annotations

import torch

from foundation.probes import grid as module
from foundation.probes.grid import Grid, Head, Segment, contenders, rungs


def heads_of(*rates, kinds=1):
    return [Head(rate, kind, False) for kind in range(kinds) for rate in rates]


def grid_of(x, rates, num_classes, **settings):
    """All heads see all numbers; the last is 1."""
    parts = [Segment(slice(0, x.shape[1] - 1), slice(0, len(rates)))]
    return Grid(heads_of(*rates), parts, x.shape[1], num_classes, momentum=0.9, **settings)


def with_ones(x):
    return torch.cat([x, torch.ones(len(x), 1)], dim=1)


def test_a_step_is_torch_sgd_on_cross_entropy():
    rates = (0.01, 0.2)
    torch.manual_seed(0)
    x, labels = torch.randn(60, 6), torch.randint(3, (60,))
    grid = grid_of(with_ones(x), rates, 3, batch_size=16, total_steps=10)
    heads = [torch.nn.Linear(6, 3) for _ in rates]
    groups = []
    for index, (head, rate) in enumerate(zip(heads, rates, strict=True)):
        weight, bias = (part.unflatten(0, (2, 3))[index] for part in grid._weights)
        head.weight.data, head.bias.data = weight.clone(), bias[:, 0].clone()
        groups.append({"params": head.parameters(), "lr": rate * 16 / 256})
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for step in range(10):
        rows = torch.randperm(60)[: 16 - step]
        grid.step(with_ones(x), rows, labels)
        optimizer.zero_grad()
        sum(torch.nn.functional.cross_entropy(head(x[rows]), labels[rows]) for head in heads).backward()
        optimizer.step()
        schedule.step()
    wanted = torch.stack([head(x).T for head in heads]).detach()
    torch.testing.assert_close(grid.logits(with_ones(x)), wanted)


def test_heads_of_a_kind_begin_alike_and_kinds_do_not():
    parts = [Segment(slice(0, 3), slice(2, 4)), Segment(slice(3, 6), slice(0, 4))]
    grid = Grid(heads_of(0.1, 1.0, kinds=2), parts, 7, 5, batch_size=8, momentum=0.9, total_steps=10)
    far, near, bias = (weight.unflatten(0, (-1, 5)) for weight in grid._weights)
    assert torch.equal(near[0], near[1]) and torch.equal(near[2], near[3]) and torch.equal(far[0], far[1])
    assert not torch.equal(near[0], near[2]) and not torch.equal(near[2], far[0])
    assert 0.005 < near.std() < 0.02 and not bias.any()


def test_fitted_heads_have_no_denormal_numbers_and_the_weights_are_the_same_without_them(monkeypatch):
    labels = torch.arange(64) % 3
    x = with_ones(20 * torch.eye(3)[labels] + torch.randn(64, 3, generator=torch.Generator().manual_seed(0)))
    weights, counted = [], []
    for cleaned in (True, False):
        if not cleaned:
            monkeypatch.setattr(module, "hardshrink", lambda values, _: values)
        grid = grid_of(x, (0.1, 10.0), 3, batch_size=128, total_steps=2000)
        found = 0
        for _ in range(1200):
            grid.step(x, torch.arange(64), labels)
            velocity = grid._velocity[0].abs()
            found += int(((velocity > 0) & (velocity < 1e-37)).sum())
        counted.append(found)
        weights.append(grid._weights[0])
    assert counted[0] == 0 < counted[1]
    assert torch.equal(*weights)


def test_heads_that_stay_train_on_as_if_the_others_had():
    x, labels = torch.randn(60, 9, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 4
    parts = [Segment(slice(0, 3), slice(0, 9)), Segment(slice(3, 6), slice(3, 9)), Segment(slice(6, 9), slice(6, 9))]

    def trained(places):
        heads = heads_of(0.01, 0.1, 1.0, kinds=3)
        grid = Grid(heads, parts, 10, 4, batch_size=20, momentum=0.9, total_steps=40, averages=True)
        for step in range(40):
            if step == 10 and places:
                grid.keep([heads[place] for place in places], averages=False)
            grid.step(with_ones(x), torch.arange(20) + 20 * (step % 3), labels)
        return grid

    places = (1, 2, 7)  # none of the second kind
    whole, part = trained(()), trained(places)
    assert part.training == places
    assert torch.equal(part.predict(with_ones(x)), whole.predict(with_ones(x))[list(places)])
    torch.testing.assert_close(part.logits(with_ones(x)), whole.logits(with_ones(x))[list(places)])


def test_heads_are_judged_by_the_mean_of_their_weights():
    x = with_ones(10 * torch.randn(60, 6, generator=torch.Generator().manual_seed(0)))
    labels = torch.arange(60) % 3
    grid = grid_of(x, (1.0,), 3, batch_size=20, total_steps=1000, averages=True)
    weights = []
    for step in range(80):
        grid.step(x, torch.arange(20) + 20 * (step % 3), labels)
        weights.append(torch.cat(grid._weights, dim=1).clone())
    wanted = (x @ torch.stack(weights[::4]).mean(dim=0).T).argmax(dim=1)
    assert torch.equal(grid.predict(x, averaged=True)[0], wanted)
    assert not torch.equal(grid.predict(x)[0], wanted), "the rate is large: the last weights are others"


def test_the_best_heads_go_on_and_their_neighbours_in_learning_rate():
    rates = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    accuracies = dict(zip(heads_of(*rates, kinds=2), [0.2, 0.4, 0.9, 0.3, 0.3, 0.7, 0.7, 0.6, 0.1, 0.8], strict=True))

    def kept(count):
        return sorted((head.blocks, head.learning_rate) for head in contenders(accuracies, count))

    assert kept(3) == [(0, 1e-3), (0, 1e-2), (0, 1e-1)], "neighbours of the best come before the second best"
    assert kept(5) == [(0, 1e-3), (0, 1e-2), (0, 1e-1), (1, 1e-1), (1, 1.0)]
    assert kept(6)[3] == (1, 1e-3), "of equals the larger rate"


def test_after_each_twelfth_a_quarter_leaves_and_an_eighth_trains_to_the_end():
    assert rungs(64, 2000) == {166: 48, 333: 32, 500: 16, 1000: 8}
    assert rungs(6, 2000) == {166: 4, 333: 4, 500: 4, 1000: 4}, "some always train to the end"
    assert rungs(2, 2000) == {166: 2, 333: 2, 500: 2, 1000: 2}
    assert not rungs(64, 999), "a twelfth of so few steps says too little"
