"""Figures of a cloud of features against plain formulas and known clouds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundation.spread import normalised_std, rankme


def cloud(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rows", "width"), [(1000, 64), (50, 200), (64, 64)])
@pytest.mark.parametrize("kind", ["full", "low", "offset", "decaying"])
def test_rankme_is_the_formula_of_the_paper(rows, width, kind):
    features = cloud(rows, width)
    if kind == "low":
        features = features[:, :5] @ cloud(5, width, 1)
    if kind == "offset":
        features = features + 5.0
    if kind == "decaying":
        features = features * torch.logspace(0, -6, width)
    sigma = np.linalg.svd(features.double().numpy(), compute_uv=False)
    share = sigma / sigma.sum() + 1e-7
    assert float(rankme(features)) == pytest.approx(float(np.exp(-(share * np.log(share)).sum())), rel=1e-4)


def test_rankme_of_known_clouds():
    full = cloud(4096, 32)
    assert 30 < float(rankme(full)) <= 32.01
    assert float(rankme(full[:, :4] @ cloud(4, 32))) < 4.01
    assert float(rankme(full + 50.0)) < 3 < 30 < float(rankme(full + 50.0, centred=True))
    assert float(rankme(torch.ones(100, 8))) == pytest.approx(1.0, abs=1e-3)
    assert float(rankme(torch.zeros(100, 8))) == pytest.approx(1.0, abs=1e-3)


def test_std_of_known_clouds():
    assert float(normalised_std(cloud(4096, 256))) == pytest.approx(1.0, abs=0.01)
    assert float(normalised_std(cloud(4096, 256) * torch.rand(4096, 1))) == pytest.approx(1.0, abs=0.01)
    assert float(normalised_std(torch.ones(64, 256))) < 1e-3
    assert float(normalised_std(torch.ones(64, 256) + 1e-3 * cloud(64, 256))) == pytest.approx(0.001, rel=0.1)
    assert float(normalised_std(torch.ones(1, 8))) == 0.0


def test_autocast_does_not_blur_the_figures():
    features = cloud(512, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert float(rankme(features)) == float(rankme(features.clone()))
        inside = float(rankme(features))
    assert inside == pytest.approx(float(rankme(features)), rel=1e-12)
