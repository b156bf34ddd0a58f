"""Treatments of features: what they learn of the training samples, and what they do to others."""

from __future__ import annotations

import pytest
import torch

from foundation.errors import UserError
from foundation.probes import treatments
from foundation.probes.features import FeatureSet
from foundation.probes.treatments import TREATMENTS, fit, treated


def correlated(count, width=6, seed=0, mix=None):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(9)) if mix is None else mix
    return torch.randn(count, len(mix), generator=generator) @ mix + 5


def test_standardised_by_the_training_samples():
    train, test = torch.tensor([[0.0, 5.0], [4.0, 5.0]]), torch.tensor([[2.0, 6.0], [8.0, 5.0]])
    fitted = fit(train, "standardised")
    assert fitted(train).tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert fitted(test).tolist() == [[0.0, 0.0], [3.0, 0.0]]  # what never varied says nothing
    assert fit(train, "as is")(test) is test


@pytest.mark.parametrize("samples", [2000, 40])
def test_whitened_training_samples_are_uncorrelated_and_of_unit_variance(samples, monkeypatch):
    monkeypatch.setattr(treatments, "_shrinkage", lambda *_: 0.0)
    train = correlated(samples, 60 if samples == 40 else 6)
    white = fit(train, "whitened")(train)
    assert white.shape[1] == (6 if samples == 2000 else 39)  # 40 samples span 39 dimensions around their mean
    torch.testing.assert_close(white.T @ white / samples, torch.eye(white.shape[1]), atol=2e-2, rtol=0)


def test_whitening_does_not_depend_on_units():
    train, test = correlated(500), correlated(50, seed=1)
    units = torch.tensor([1e-3, 1.0, 7.0, 1e4, 0.2, 30.0])
    first, second = fit(train, "whitened")(test), fit(train * units, "whitened")(test * units)
    torch.testing.assert_close(first @ first.T, second @ second.T, atol=1e-2, rtol=1e-2)


def test_few_samples_shrink_the_eigenvalues_towards_their_mean():
    independent = torch.randn(12, 40, generator=torch.Generator().manual_seed(0))
    white = fit(independent, "whitened")(independent)
    assert white.square().sum(dim=1).mean() < 60, "not the 440 of a covariance that is taken at its word"


def test_components_that_only_carry_noise_are_left_out_where_labels_say_so():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    mix = torch.linalg.qr(torch.randn(200, 200, generator=generator))[0]
    features = torch.nn.functional.pad(torch.eye(4)[labels] + 0.2 * torch.randn(400, 4, generator=generator), (0, 196))
    features = (features + 0.03 * torch.randn(400, 200, generator=generator)) @ mix
    assert fit(features, "whitened").matrix.shape[1] > 100
    assert fit(features, "whitened", labels).matrix.shape[1] < 10


def test_collapsed_features_stay_finite_under_every_treatment():
    labels, same = torch.arange(20) % 2, torch.full((20, 5), 3.0)
    for treatment in TREATMENTS:
        assert torch.isfinite(fit(same, treatment, labels)(same)).all()
        assert torch.isfinite(fit(same[:1], treatment, labels[:1])(same)).all()


def test_features_that_are_not_finite_are_counted():
    broken = correlated(9)
    broken[4, 1] = torch.nan
    with pytest.raises(UserError, match="1 of 9 training features are not finite"):
        fit(broken, "whitened")


def test_a_set_is_treated_layer_by_layer_and_earlier_layers_leave():
    def features(seed):
        layers = tuple(correlated(50, seed=seed + index) for index in range(3))
        return FeatureSet(layers, correlated(50, seed=seed + 9), torch.arange(50) % 2, ("k",) * 50)

    train, test = features(0), features(100)
    own, other = treated("standardised", train, test, blocks=2, patches=False)
    assert len(own.cls) == len(other.cls) == 2 and other.patches is test.patches
    torch.testing.assert_close(own.cls[-1].mean(dim=0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(other.cls[0], fit(train.cls[1], "standardised")(test.cls[1]))
