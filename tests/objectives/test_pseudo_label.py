"""Pseudo labels: what counts, what a margin does, whom a gate lets pass; parts of a batch give what the whole gives."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.mixture import GaussianMixture

from foundation.errors import UserError
from foundation.heads import prototypes as heads
from foundation.objectives import pseudo_label
from foundation.objectives.store import Stores
from foundation.schedules import Clock, Duration
from tests.objectives.contexts import context

CLOCK, K, S, V = Clock(12, 4.0), 6, 20, 2


def build(**keys):
    stores = Stores(S)
    made = dataclasses.replace(context(CLOCK, {"clusters": heads.Config(prototypes=K)}, 8), stores=stores)
    return pseudo_label.Config(head="clusters", mask=None, **keys).build(made), stores


def a_batch(make_batch, index):
    return dataclasses.replace(make_batch(len(index), {"global": V}), index=torch.as_tensor(index))


def outputs_of(objective, scores, teacher=None):
    """Scores [V, B, K] as the branches give them."""
    outputs = {request: scores.flatten(0, 1) for request in objective.student_requests}
    return outputs if teacher is None else outputs | {objective.teacher_request: teacher.flatten(0, 1)}


def cosines(samples, seed=0):
    return torch.rand(V, samples, K, generator=torch.Generator().manual_seed(seed)) * 1.8 - 0.9


def test_samples_without_a_cluster_teach_nothing_and_divide_all_the_same(make_batch):
    objective, stores = build(temperature=0.2)
    stores.opened["clusters"].values[:] = torch.arange(S) % K
    stores.opened["clusters"].values[[3, 7]] = -1
    index = [3, 2, 19, 7, 5]
    scores = cosines(5).requires_grad_()
    result = objective(outputs_of(objective, scores), a_batch(make_batch, index), 0)
    logs = F.log_softmax(scores.detach() / 0.2, dim=-1)
    wanted = sum(-logs[:, row, index[row] % K].mean() for row in (1, 2, 4)) / 5
    torch.testing.assert_close(result.loss, wanted)
    assert float(result.metrics["assigned"]) == pytest.approx(3 / 5)
    hits = [int(scores[v, row].argmax()) == index[row] % K for row in (1, 2, 4) for v in range(V)]
    assert float(result.metrics["agreement"]) == pytest.approx(sum(hits) / 6)
    result.loss.backward()
    moved = scores.grad.abs().sum(dim=(0, 2)) > 0
    assert moved.tolist() == [False, True, True, False, True]


def test_before_the_first_clustering_there_is_no_loss_but_a_gradient_of_zero(make_batch):
    objective, _ = build()
    scores = cosines(4).requires_grad_()
    result = objective(outputs_of(objective, scores), a_batch(make_batch, [0, 1, 2, 3]), 0)
    result.loss.backward()
    assert result.loss == 0 and scores.grad is not None and not scores.grad.any()


def test_a_margin_turns_the_own_cosine_and_keeps_falling_where_the_angle_ends(make_batch):
    margin, clusters = 0.3, torch.tensor([1, 4, 0])
    scores = cosines(3)
    scores[0, 0, 1] = -0.999
    turned = pseudo_label.with_margin(scores, clusters, margin)
    for v in range(V):
        for row, own in enumerate(clusters.tolist()):
            angle = math.acos(float(scores[v, row, own])) + margin
            over = float(scores[v, row, own]) - margin * math.sin(margin)
            assert float(turned[v, row, own]) == pytest.approx(math.cos(angle) if angle < math.pi else over, abs=1e-5)
    others = torch.ones(V, 3, K, dtype=torch.bool)
    others[:, range(3), clusters] = False
    assert torch.equal(turned[others], scores[others])
    ends = torch.tensor([[[1.0, -1.0]]], requires_grad=True)
    for own in (0, 1):
        pseudo_label.with_margin(ends, torch.tensor([own]), margin).sum().backward()
    assert ends.grad.isfinite().all()
    objective, stores = build(margin=margin)
    stores.opened["clusters"].values[:3] = clusters
    result = objective(outputs_of(objective, scores), a_batch(make_batch, [0, 1, 2]), 0)
    wanted = F.cross_entropy((turned / 0.1).flatten(0, 1), clusters.repeat(V))
    torch.testing.assert_close(result.loss, wanted)


def test_two_normals_are_those_of_scikit_learn():
    draw = np.random.default_rng(0)
    values = np.concatenate([draw.normal(-2, 0.5, 300), draw.normal(1, 0.8, 100)]).astype(np.float32)
    there = torch.ones(500, dtype=torch.bool)
    there[400:] = False
    filled = torch.cat([torch.from_numpy(values), torch.full((100,), 77.0)])
    found, enough = pseudo_label.two_normals(filled, there)
    reference = GaussianMixture(2, tol=1e-7, max_iter=500, means_init=[[-1], [1]]).fit(values[:, None])
    order = reference.means_[:, 0].argsort()
    wanted = [reference.weights_[order], reference.means_[order, 0], reference.covariances_[order, 0, 0]]
    assert bool(enough) and np.allclose(found.numpy(), np.stack(wanted), rtol=0.02, atol=0.01)
    low = pseudo_label.is_low(torch.from_numpy(values), found).numpy()
    sides = reference.predict(values[:, None]) == order[0]
    inside = (values > found[1, 0].item()) & (values < found[1, 1].item())
    assert (low == sides)[inside].all() and low[values < -2].all() and not low[values > 1.5].any()


@pytest.mark.parametrize("values", [[], [0.7], [0.7, 0.7, 0.7]])
def test_nothing_is_fitted_to_losses_that_do_not_differ(values):
    mixture, enough = pseudo_label.two_normals(
        torch.tensor([*values, 5.0]), torch.tensor([*(True for _ in values), False])
    )
    assert not enough and mixture.isfinite().all()


def two_kinds():
    """An objective whose samples from 12 on have a cluster that their scores speak against."""
    objective, stores = build(gate=Duration(1, "epochs"), teacher="teacher", temperature=0.1, confidence=0.9)
    stores.opened["clusters"].values[:] = torch.arange(S) % K
    own = F.one_hot(torch.arange(S) % K, K).float()
    wrong = F.one_hot((torch.arange(S) + 1) % K, K).float()
    scores = torch.where((torch.arange(S) < 12)[:, None], own, wrong).expand(V, S, K) * 0.8
    return objective, stores, scores + 0.1 * cosines(S, seed=3)


def test_a_gate_keeps_out_high_losses_and_a_teacher_corrects_them(make_batch):
    objective, stores, scores = two_kinds()
    everything = list(range(S))
    teacher = scores.clone()
    teacher[:, -1] = 0.0  # which is not sure of this one
    for step in range(5):  # an epoch has four steps
        scores = scores.detach().requires_grad_()
        result = objective(outputs_of(objective, scores, teacher), a_batch(make_batch, everything), step)
        reliable = 1.0 if step < 4 else 12 / 20
        assert float(result.metrics["reliable"]) == pytest.approx(reliable)
    assert float(result.metrics["corrected"]) == pytest.approx(7 / 20)
    assert stores.opened["clusters_losses"].values.min() > 0
    result.loss.backward()
    assert not scores.grad[:, -1].any()
    # A sample behind the gate moves away from its cluster and towards what the teacher says of it.
    assert (scores.grad[:, 12, 12 % K] > 0).all() and (scores.grad[:, 12, 13 % K] < 0).all()


def test_a_run_that_goes_back_fits_again(make_batch):
    objective, stores, scores = two_kinds()
    batch = a_batch(make_batch, list(range(S)))
    outputs = outputs_of(objective, scores, scores)
    for step in range(4):
        objective(outputs, batch, step)
    kept = {name: value.clone() for name, value in objective.state_dict().items()}
    losses = stores.opened["clusters_losses"].values.clone()
    objective(outputs, batch, 4)
    wanted = objective.mixture.clone()
    objective.load_state_dict(kept)
    stores.opened["clusters_losses"].values.copy_(losses)
    assert not objective.fitted
    objective(outputs, batch, 4)
    assert objective.fitted and torch.equal(objective.mixture, wanted)


def test_micro_batches_give_the_loss_the_gradient_and_the_store_of_one_batch(make_batch):
    objective, stores, scores = two_kinds()
    stores.opened["clusters"].values[[0, 1, 2, 15]] = -1  # three of one half, one of the other
    everything = list(range(S))
    teacher = scores.clone()
    for step in range(4):
        objective(outputs_of(objective, scores, teacher), a_batch(make_batch, everything), step)
    kept = {name: value.clone() for name, value in objective.state_dict().items()}
    losses = stores.opened["clusters_losses"].values.clone()
    found = []
    for halves in ([everything], [everything[:10], everything[10:]]):
        objective.load_state_dict(kept)
        stores.opened["clusters_losses"].values.copy_(losses)
        own, total = (scores + 0.3).detach().requires_grad_(), 0.0
        for part in halves:
            batch = a_batch(make_batch, part)
            total += objective(outputs_of(objective, own[:, part], teacher[:, part]), batch, 4).loss / len(halves)
        total.backward()
        found.append(
            (total.detach(), own.grad, objective.mixture.clone(), stores.opened["clusters_losses"].values.clone())
        )
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-7)


def test_what_cannot_work_is_refused():
    with pytest.raises(UserError, match="no head called 'cluster'; did you mean 'clusters'"):
        pseudo_label.Config(head="cluster").build(context(CLOCK, {"clusters": heads.Config(prototypes=K)}, 8))
    with pytest.raises(UserError, match=r"has no prototypes: give heads\.clusters\.prototypes a number"):
        pseudo_label.Config(head="clusters").build(context(CLOCK, {"clusters": heads.Config(prototypes=None)}, 8))
    free = {"clusters": heads.Config(prototypes=K, freeze_scale=False)}
    with pytest.raises(UserError, match=r"a margin needs cosines: set heads\.clusters\.freeze_scale to true"):
        pseudo_label.Config(head="clusters", margin=0.2).build(context(CLOCK, free, 8))
    with pytest.raises(UserError, match="give gate an interval"):
        pseudo_label.Config(head="clusters", teacher="teacher")
    with pytest.raises(UserError, match="views is empty"):
        pseudo_label.Config(head="clusters", views=())


def test_two_heads_of_unlike_size_cannot_share_a_store():
    both = {"one": heads.Config(prototypes=K), "other": heads.Config(prototypes=K + 1)}
    made = context(CLOCK, both, 8)
    pseudo_label.Config(head="one").build(made)
    with pytest.raises(UserError, match="the store 'clusters' has 6 classes for one reader and 7 for another"):
        pseudo_label.Config(head="other").build(made)
