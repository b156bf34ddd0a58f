"""Linear heads that train side by side: the gradient, denormal numbers, and who leaves."""

from __future__ import annotations

import torch

from foundation.probes import grid as module
from foundation.probes.grid import Grid, rungs

KIND, WHOLE = [(1, False)], [slice(0, 6)]


def test_a_step_is_torch_sgd_on_cross_entropy():
    rates = (0.01, 0.2)
    torch.manual_seed(0)
    grid = Grid(rates, KIND, WHOLE, 3, batch_size=16, momentum=0.9, total_steps=10)
    heads = [torch.nn.Linear(6, 3) for _ in rates]
    groups = []
    for place, (head, rate) in enumerate(zip(heads, rates, strict=True)):
        columns = grid._weights[0].unflatten(1, (3, 2))[..., place]
        head.weight.data, head.bias.data = columns[:-1].T.clone(), columns[-1].clone()
        groups.append({"params": head.parameters(), "lr": rate * 16 / 256})
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    x, labels = torch.randn(60, 6), torch.randint(3, (60,))
    for _ in range(10):
        rows = torch.randperm(60)[:16]
        grid.step(x, rows, labels)
        optimizer.zero_grad()
        sum(torch.nn.functional.cross_entropy(head(x[rows]), labels[rows]) for head in heads).backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(grid.logits(0, x), torch.stack([head(x) for head in heads], dim=2).detach())


def test_fitted_heads_have_no_denormal_numbers_and_the_weights_are_the_same_without_them(monkeypatch):
    labels = torch.arange(64) % 3
    x = 20 * torch.eye(3)[labels] + torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    weights, counted = [], []
    for cleaned in (True, False):
        if not cleaned:
            monkeypatch.setattr(module, "hardshrink", lambda values, _: values)
        grid = Grid((0.1, 10.0), KIND, [slice(0, 3)], 3, batch_size=128, momentum=0.9, total_steps=2000)
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
    kinds, columns = [(1, False), (1, True), (2, True)], [slice(3, 6), slice(3, 9), slice(0, 9)]

    def trained(places):
        grid = Grid((0.01, 0.1, 1.0), kinds, columns, 4, batch_size=20, momentum=0.9, total_steps=40, averages=True)
        for step in range(40):
            if step == 10 and places:
                grid.keep(places, averages=False)
            grid.step(x, torch.arange(20) + 20 * (step % 3), labels)
        return grid

    places = (0, 2, 7)  # none of the second kind
    whole, part = trained(()), trained(places)
    assert part.training == places
    assert torch.equal(part.predict(x), whole.predict(x)[list(places)])
    torch.testing.assert_close(part.logits(0, x), whole.logits(0, x)[..., [0, 2]])
    torch.testing.assert_close(part.logits(2, x), whole.logits(2, x)[..., [1]])


def test_heads_are_judged_by_the_mean_of_their_weights():
    x, labels = 10 * torch.randn(60, 6, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
    grid = Grid((1.0,), KIND, WHOLE, 3, batch_size=20, momentum=0.9, total_steps=1000, averages=True)
    weights = []
    for step in range(80):
        grid.step(x, torch.arange(20) + 20 * (step % 3), labels)
        weights.append(grid._weights[0].clone())
    mean = torch.stack(weights[::4]).mean(dim=0)
    wanted = (x @ mean[:-1] + mean[-1]).argmax(dim=1)
    assert torch.equal(grid.predict(x, averaged=True)[0], wanted)
    assert not torch.equal(grid.predict(x)[0], wanted), "the rate is large: the last weights are others"


def test_after_each_tenth_a_quarter_leaves_until_a_quarter_is_left():
    assert rungs(64, 2000) == {200: 48, 400: 32, 600: 16}
    assert rungs(6, 2000) == {200: 5, 400: 4, 600: 4}, "some always train to the end"
    assert rungs(2, 2000) == {200: 2, 400: 2, 600: 2}
    assert not rungs(64, 999), "a tenth of so few steps says too little"
