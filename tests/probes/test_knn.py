"""kNN against the reference implementations, brute force, and what users get wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from foundation.errors import UserError
from foundation.probes import knn, neighbours
from foundation.probes.features import FeatureSet


def _golden(arrays, count):
    torch_of = {key: torch.from_numpy(value) for key, value in arrays.items() if value.dtype.kind in "fib"}
    near = knn.search(torch_of["input/train_features"], torch_of["input/test_features"], max(arrays["arg/k"].tolist()))
    return torch_of, near


def test_dino_class_scores_and_accuracies(golden):
    arrays = golden("08_dino_v1_knn")
    data, near = _golden(arrays, 10)
    bank_labels, labels = data["input/train_labels"].long(), data["input/test_labels"].long()
    ks = arrays["arg/k"].tolist()
    found = knn.classify(near, bank_labels, labels, ks)
    for k in ks:
        scores = knn.vote(near.similarities, bank_labels[near.indices], 10, k)
        torch.testing.assert_close(scores, data[f"output/k{k}/class_scores"], rtol=1e-4, atol=1e-2)
        assert torch.equal(found[k].predictions, data[f"output/k{k}/prediction"].long())
        assert 100 * found[k].top1 == pytest.approx(float(arrays[f"output/k{k}/top1"]))
        assert 100 * found[k].top5 == pytest.approx(float(arrays[f"output/k{k}/top5"]))


def test_dinov2_class_probabilities_and_accuracies(golden):
    arrays = golden("08_dinov2_knn")
    data, near = _golden(arrays, 10)
    bank_labels, labels = data["input/train_labels"].long(), data["input/test_labels"].long()
    torch.testing.assert_close(near.similarities, data["output/topk_similarities"], rtol=0, atol=1e-6)
    assert torch.equal(bank_labels[near.indices], data["output/topk_labels"].long())
    ks = arrays["arg/k"].tolist()
    found = knn.classify(near, bank_labels, labels, ks)
    for k in ks:
        # DINOv2 divides by the weights of all neighbours that were searched for, whatever k is.
        every = (near.similarities / knn.TEMPERATURE).exp().sum(dim=1, keepdim=True)
        shares = knn.vote(near.similarities, bank_labels[near.indices], 10, k) / every
        torch.testing.assert_close(shares, data[f"output/k{k}/class_probabilities"], rtol=1e-4, atol=1e-6)
        assert torch.equal(found[k].predictions, data[f"output/k{k}/prediction"].long())
        assert found[k].top1 == pytest.approx(float(arrays[f"output/k{k}/top1_accuracy"]), abs=1e-6)


def test_dinov2_few_shot_subset(golden):
    arrays = golden("08_dinov2_knn")
    rows = knn.few_shot(torch.from_numpy(arrays["input/train_labels"]), 3, seed=0)
    assert rows.tolist() == arrays["output/filter_train_per_class3_seed0"].tolist()


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_blocks_equal_brute_force(leave_one_out):
    generator = torch.Generator().manual_seed(1)
    bank = torch.randn(257, 24, generator=generator)
    queries = bank if leave_one_out else torch.randn(91, 24, generator=generator)
    found = knn.search(bank, queries, 13, leave_one_out=leave_one_out, query_block=17, bank_block=10)
    unit = torch.nn.functional.normalize(bank, dim=1)
    cosine = torch.nn.functional.normalize(queries, dim=1) @ unit.T
    if leave_one_out:
        cosine.fill_diagonal_(-2)
    values, places = cosine.sort(dim=1, descending=True)
    assert torch.equal(found.indices, places[:, :13])
    torch.testing.assert_close(found.similarities, values[:, :13])


def test_neighbours_of_the_own_group_do_not_vote():
    generator = torch.Generator().manual_seed(1)
    bank, groups = torch.randn(60, 8, generator=generator), torch.arange(60) // 7
    found = knn.search(bank, bank, 50, leave_one_out=True, groups=groups, query_block=11, bank_block=13)
    assert not (groups[found.indices] == groups[:, None]).any()
    unit = torch.nn.functional.normalize(bank, dim=1)
    cosine = (unit @ unit.T).masked_fill(groups[:, None] == groups, -2)
    torch.testing.assert_close(found.similarities, cosine.sort(dim=1, descending=True).values[:, :50])
    with pytest.raises(UserError, match="53 samples of the bank besides the query's group"):
        knn.search(bank, bank, 54, leave_one_out=True, groups=groups)
    with pytest.raises(UserError, match="one group"):
        neighbours.neighbours_of(9, True, torch.zeros(9, dtype=torch.int64))


def test_top5_is_left_out_where_it_says_nothing():
    labels = torch.arange(40) % 6
    near = knn.search(torch.randn(40, 3), torch.randn(40, 3), 10)
    assert knn.classify(near, labels, labels, [10])[10].top5 is not None
    assert knn.classify(near, labels % 5, labels % 5, [10])[10].top5 is None


def test_more_neighbours_than_samples_is_the_users_mistake():
    with pytest.raises(UserError, match="5 samples"):
        knn.search(torch.randn(5, 3), torch.randn(2, 3), 6)
    with pytest.raises(UserError, match="4 samples"):
        knn.search(torch.randn(5, 3), torch.randn(5, 3), 5, leave_one_out=True)
    with pytest.raises(UserError, match="200"):
        knn.choose_k([10, 200], 50)


def test_the_default_list_shrinks_with_a_note():
    assert knn.choose_k(None, 1000) == ((10, 20, 100, 200), None)
    ks, note = knn.choose_k(None, 150)
    assert ks == (10, 20, 100)
    assert note is not None and "150" in note
    assert knn.choose_k(None, 3)[0] == (3,)


def test_features_that_are_not_finite_are_counted():
    bank = torch.randn(8, 3)
    bank[2, 1], bank[5, 0] = float("nan"), float("inf")
    with pytest.raises(UserError, match=r"2 of 8 bank features are not finite \(first: sample 2\)"):
        knn.search(bank, torch.randn(2, 3), 1)


def test_collapsed_features_score_chance_not_a_crash():
    labels = torch.arange(40) % 4
    near = knn.search(torch.ones(40, 6), torch.ones(40, 6), 40)
    found = knn.classify(near, labels, labels, [40])[40]
    assert found.top1 == pytest.approx(0.25)
    assert np.isfinite(found.interval).all()
    assert found.interval[0] < 0.25 < found.interval[1]


def test_mean_patch_tokens_count_where_no_loss_trains_the_class_token():
    labels = torch.arange(60) % 3
    told = torch.eye(3)[labels] + 0.1 * torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    untold = 100 * torch.randn(60, 3, generator=torch.Generator().manual_seed(1))
    features = FeatureSet(cls=(untold,), patches=told, labels=labels, keys=tuple(map(str, range(60))))
    found = {}
    for tokens in ("cls", "patches", "both"):
        vectors = knn.vectors(features, tokens)
        near = knn.search(vectors, vectors, 5, leave_one_out=True)
        found[tokens] = knn.classify(near, labels, labels, [5])[5].top1
    assert found["cls"] < 0.6 and found["patches"] == 1.0
    assert found["both"] > 0.8, "a part of large norm does not drown the other"


def crowd(samples, width=48, seed=0, spread=1.0):
    """Vectors about a few middles: with little spread most are about equally near."""
    generator = torch.Generator().manual_seed(seed)
    middles = torch.randn(5, width, generator=generator)
    return middles[torch.arange(samples) % 5] + spread * torch.randn(samples, width, generator=generator)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("spread", [3.0, 0.3, 0.01])
@pytest.mark.parametrize("order", ["drawn", "nearer and nearer"])
def test_neighbours_of_a_large_bank_are_those_of_a_plain_sort(narrow, spread, order, monkeypatch):
    """In any order of the bank, by float32 alone and by bfloat16 first: blocks of which few, many and all pass."""
    monkeypatch.setattr(neighbours, "multiplies_bfloat16", lambda: narrow)
    bank, queries = crowd(6000, spread=spread), crowd(40, seed=1, spread=spread)
    if order == "nearer and nearer":
        towards = nn.functional.normalize(bank, dim=1) @ nn.functional.normalize(queries, dim=1).mean(dim=0)
        bank = bank[towards.argsort()]
    found = knn.search(bank, queries, 5, bank_block=256, query_block=16)
    unit = [nn.functional.normalize(part.double(), dim=1) for part in (bank, queries)]
    cosine = unit[1] @ unit[0].T
    expected = cosine.topk(5, dim=1)
    assert torch.allclose(found.similarities.double(), expected.values, atol=1e-6)
    # Where two are as near up to rounding, either may come first.
    assert torch.allclose(cosine.gather(1, found.indices), expected.values, atol=1e-6)
    assert all(len(set(row)) == 5 for row in found.indices.tolist())


def test_the_bound_of_bfloat16_holds():
    """The worst that rounding can do: every factor just between two numbers of bfloat16."""
    one = nn.functional.normalize(torch.full((1, 256), 1 + 2.0**-9 + 2.0**-20), dim=1)
    generator = torch.Generator().manual_seed(0)
    others = nn.functional.normalize(torch.rand(2000, 256, generator=generator) + 0.5, dim=1)
    for a, b in ((one, one), (one, others), (others, others)):
        error = (a.bfloat16().float() @ b.bfloat16().float().T - a @ b.T).abs().max()
        assert float(error) < neighbours._NARROW_ERROR


def test_few_products_are_looked_at_where_products_are_narrow(monkeypatch):
    """The way by bfloat16 is taken, and most blocks need no product in float32."""
    monkeypatch.setattr(neighbours, "multiplies_bfloat16", lambda: True)
    taken = []
    original = neighbours._Best._from_narrow
    monkeypatch.setattr(
        neighbours._Best, "_from_narrow", lambda self, *a: taken.append(original(self, *a)) or taken[-1]
    )
    knn.search(crowd(20_000, spread=3.0), crowd(16, seed=1, spread=3.0), 5, bank_block=1024)
    assert len(taken) > 10 and sum(taken) > 0.9 * len(taken)
