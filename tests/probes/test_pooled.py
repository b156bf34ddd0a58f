"""Formulas on pooled features, each against scikit-learn, NumPy written out, or a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from foundation.errors import UserError
from foundation.probes import clustering, logistic, outliers, rank, uniformity
from foundation.probes.draws import Amount, drawn
from foundation.probes.ranking import ranked


def clouds(samples=300, width=12, classes=4, seed=0, spread=1.5):
    generator = torch.Generator().manual_seed(seed)
    middles = torch.randn(classes, width, generator=generator)
    labels = torch.arange(samples) % classes
    return middles[labels] + spread * torch.randn(samples, width, generator=generator), labels


@pytest.mark.parametrize("strength", [1e-3, 1e-1])
def test_logistic_regression_is_that_of_scikit_learn(strength):
    x, labels = clouds()
    ours = logistic.fit(x.double(), labels, 4, [1.0, strength])[1]
    theirs = LogisticRegression(C=1 / (len(x) * strength), tol=1e-10, max_iter=5000).fit(x.double().numpy(), labels)
    # Softmax knows the bias up to a constant of all classes.
    assert np.allclose(ours.weight.T.numpy(), theirs.coef_, atol=5e-4)
    assert np.allclose((ours.bias - ours.bias.mean()).numpy(), theirs.intercept_ - theirs.intercept_.mean(), atol=5e-4)
    assert ours.strength == strength
    assert torch.equal(ours.predict(x), torch.from_numpy(theirs.predict(x.numpy())))


def test_logistic_regression_needs_a_strength():
    with pytest.raises(UserError, match="strengths"):
        logistic.fit(torch.zeros(2, 1), torch.tensor([0, 1]), 2, [])


def test_draws_take_a_share_or_a_number_of_every_class():
    labels = torch.tensor([0] * 100 + [1] * 30 + [2] * 3)
    assert torch.bincount(labels[drawn(labels, Amount(share=0.1), 0)]).tolist() == [10, 3, 1]
    assert torch.bincount(labels[drawn(labels, Amount(count=5), 0)]).tolist() == [5, 5, 3]
    assert torch.equal(drawn(labels, Amount(count=5), 1), drawn(labels, Amount(count=5), 1))
    assert not torch.equal(drawn(labels, Amount(count=5), 1), drawn(labels, Amount(count=5), 2))
    assert [str(Amount(share=0.01)), str(Amount(count=5))] == ["1 %", "5 per class"]


def test_average_precision_is_that_of_scikit_learn():
    (gallery, of_gallery), (queries, labels) = clouds(60, seed=1), clouds(20, seed=2)
    found = ranked(gallery, of_gallery, queries, labels, (1, 3))
    unit = [torch.nn.functional.normalize(part, dim=1) for part in (gallery, queries)]
    cosine = (unit[1] @ unit[0].T).numpy()
    for row, label in enumerate(labels.tolist()):
        relevant = (of_gallery == label).numpy()
        assert float(found.precision[row]) == pytest.approx(
            metrics.average_precision_score(relevant, cosine[row]), abs=1e-5
        )
        first = np.argsort(-cosine[row])
        assert bool(found.hits[1][row]) == relevant[first[0]] and bool(found.hits[3][row]) == relevant[first[:3]].any()


def test_leaving_one_out_neither_the_query_nor_its_group_is_found():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.9, 0.2], [0.0, 1.0]])
    labels = torch.tensor([0, 0, 0, 1])
    found = ranked(x, labels, x, labels, (1,), leave_one_out=True)
    assert found.precision.tolist() == [1.0, 1.0, 1.0, 0.0] and found.known.tolist() == [True] * 3 + [False]
    groups = torch.tensor([0, 0, 0, 1])
    assert not ranked(x, labels, x, labels, (1,), leave_one_out=True, groups=groups).known.any()


def test_agreement_of_clusters_is_that_of_scikit_learn():
    labels = torch.randint(0, 5, (400,), generator=torch.Generator().manual_seed(0))
    clusters = torch.where(torch.rand(400, generator=torch.Generator().manual_seed(1)) < 0.6, (labels + 2) % 5, 6)
    found = clustering.agreement(clusters, labels)
    assert found.nmi == pytest.approx(metrics.normalized_mutual_info_score(labels, clusters))
    assert found.ari == pytest.approx(metrics.adjusted_rand_score(labels, clusters))
    assert found.accuracy == pytest.approx(float(found.right.float().mean()))
    # Cluster 6 stands for no class that is left, but for the one class that no other cluster has more of.
    assert found.accuracy >= float((clusters == (labels + 2) % 5).float().mean()) - 0.2
    whole = clustering.agreement((labels + 3) % 5, labels)
    assert (whole.nmi, whole.ari, whole.accuracy) == pytest.approx((1.0, 1.0, 1.0))
    one = clustering.agreement(torch.zeros(400, dtype=torch.int64), labels)
    assert one.nmi == pytest.approx(0, abs=1e-9) and one.ari == pytest.approx(0, abs=1e-9)


def test_k_means_finds_clouds_that_lie_apart():
    x, labels = clouds(200, spread=0.05)
    assert clustering.agreement(clustering.k_means(x, 4), labels).accuracy == 1.0


def test_rank_of_features_of_known_rank():
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(500, 8, generator=generator)).Q  # eight directions of equal size
    assert rank.rank_me(basis) == pytest.approx(8, rel=1e-5)
    wide = basis @ torch.linalg.qr(torch.randn(64, 8, generator=generator)).Q.T
    assert rank.rank_me(wide) == pytest.approx(8, rel=1e-3)
    assert rank.rank_me(torch.ones(50, 8)) == pytest.approx(1, rel=1e-5)
    assert rank.effective_rank(torch.zeros(3)) == 0


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_alpha_req_finds_the_exponent_of_a_power_law(alpha):
    values = torch.arange(1, 201, dtype=torch.float64) ** -alpha
    assert rank.alpha_req(values) == pytest.approx(alpha)
    assert math.isnan(rank.alpha_req(values[:4]))


def test_spectrum_is_that_of_the_covariance():
    x = clouds(100, 6)[0]
    expected = np.linalg.eigvalsh(np.cov(x.double().numpy().T))[::-1]
    assert np.allclose(rank.spectrum(x).numpy(), expected)
    wide = clouds(6, 40)[0]
    expected = np.linalg.eigvalsh(np.cov(wide.double().numpy().T))[::-1][: len(wide)]
    assert np.allclose(rank.spectrum(wide).numpy(), expected)


def test_lidar_is_the_rank_of_the_discriminant_written_out():
    generator = torch.Generator().manual_seed(3)
    means = torch.randn(40, 1, 6, generator=generator) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1, 0.0])
    views = means + 0.3 * torch.randn(40, 5, 6, generator=generator)
    x = views.double().numpy()
    between = np.cov(x.mean(axis=1).T)
    within = sum((one - one.mean(axis=0)).T @ (one - one.mean(axis=0)) for one in x) / (40 * 4) + 1e-4 * np.eye(6)
    # Eigenvalues of W^-1 B are those of the whitened matrix.
    values = np.linalg.eigvals(np.linalg.solve(within, between)).real.clip(min=0)
    shares = values / values.sum()
    expected = np.exp(-np.sum(shares[shares > 0] * np.log(shares[shares > 0])))
    assert rank.lidar(views) == pytest.approx(expected, rel=1e-6)


def test_lidar_refuses_features_whose_covariance_would_not_fit():
    with pytest.raises(UserError, match="150,528 numbers of a feature, of at most 4,096"):
        rank.lidar(torch.zeros(1, 1, 150_528).expand(4, 2, -1))


def test_alignment_and_uniformity_of_known_sets():
    x = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    assert uniformity.alignment(x, x).tolist() == [0, 0]
    assert uniformity.alignment(x, -x).tolist() == pytest.approx([4, 4])
    assert uniformity.uniformity(torch.ones(10, 3)) == pytest.approx(0, abs=1e-6)
    assert uniformity.uniformity(x) == pytest.approx(-4)  # two at right angles: exp(-2 * 2)
    assert math.isnan(uniformity.uniformity(x[:1]))
    many = clouds(1500, 5)[0]
    unit = torch.nn.functional.normalize(many, dim=1).double()
    expected = math.log(float((-2 * torch.pdist(unit).square()).exp().mean()))
    assert uniformity.uniformity(many) == pytest.approx(expected, abs=1e-5)


def test_auroc_with_ties_is_that_of_scikit_learn_and_the_mean_of_its_parts():
    generator = torch.Generator().manual_seed(0)
    known, others = (torch.randint(0, 12, (n,), generator=generator) + shift for n, shift in ((150, 0), (90, 3)))
    found = outliers.separation(known.float(), others.float())
    truth = [0] * 150 + [1] * 90
    assert found.auroc == pytest.approx(metrics.roc_auc_score(truth, torch.cat([known, others])))
    assert float(found.each.double().mean()) == pytest.approx(found.auroc) and len(found.each) == 150
    assert found.interval[0] < found.auroc < found.interval[1]
    fpr, tpr, _ = metrics.roc_curve([1] * 150 + [0] * 90, -torch.cat([known, others]).double().numpy(),
                                    drop_intermediate=False)  # fmt: skip
    assert found.fpr95 == pytest.approx(float(fpr[np.argmax(tpr >= 0.95)]))


def test_the_interval_of_an_auroc_holds_what_it_promises():
    inside = 0
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        known, others = torch.randn(60, generator=generator), torch.randn(60, generator=generator) + 1
        low, high = outliers.separation(known, others).interval
        inside += low <= 0.5 * (1 + math.erf(1 / 2)) <= high  # P(N(1, 2) > 0)
    assert 0.9 <= inside / 200 <= 0.99


def test_mahalanobis_is_the_distance_written_out():
    x, labels = clouds(200, 5)
    queries = clouds(7, 5, seed=9)[0]
    found = outliers.mahalanobis(x, labels, queries)
    means = np.stack([x[labels == label].mean(dim=0).double().numpy() for label in range(4)])
    centred = x.double().numpy() - means[labels]
    inverse = np.linalg.inv(centred.T @ centred / 200)
    gaps = queries.double().numpy()[:, None] - means
    expected = np.einsum("qcd,de,qce->qc", gaps, inverse, gaps).min(axis=1)
    assert np.allclose(found.numpy(), expected, rtol=1e-4)


def test_the_distance_to_a_neighbour_is_that_of_the_kth():
    x, queries = clouds(50, 5)[0], clouds(6, 5, seed=4)[0]
    unit = [torch.nn.functional.normalize(part, dim=1) for part in (x, queries)]
    expected = torch.cdist(unit[1], unit[0]).sort(dim=1).values[:, 2]
    assert torch.allclose(outliers.knn_distance(x, queries, 3), expected, atol=1e-3)


def test_features_that_are_not_finite_are_refused():
    x = torch.tensor([[1.0, torch.nan], [1.0, 2.0]])
    for ask in (
        lambda: rank.rank_me(x),
        lambda: rank.spectrum(x),
        lambda: uniformity.uniformity(x),
        lambda: uniformity.alignment(x, x),
        lambda: clustering.k_means(x, 2),
        lambda: outliers.mahalanobis(x, None, x),
        lambda: ranked(x, torch.tensor([0, 1]), x, torch.tensor([0, 1])),
    ):
        with pytest.raises(UserError, match="not finite"):
            ask()


def test_sets_that_are_told_apart_have_no_interval_of_width_zero():
    """DeLong's variance is 0 there, and three samples would be as good as a proof."""
    found = outliers.separation(torch.zeros(3), torch.ones(200))
    assert found.auroc == 1 and found.interval[1] == 1 and found.interval[0] < 0.5
    many = outliers.separation(torch.zeros(300), torch.ones(200))
    assert 0.95 < many.interval[0] < 1
    single = outliers.separation(torch.tensor([0.5]), torch.linspace(0, 1, 101))
    assert single.interval[0] < 0.1 and single.interval[1] > 0.9
