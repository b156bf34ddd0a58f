"""Geometry of matching: what the map says is what the pixels show."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundation.modalities.image.geometry import affine, resize_crops
from foundation.probes.dense_prediction import correspondence

GRID = (6, 6)


@pytest.mark.parametrize("flip", [False, True])
def test_a_place_is_carried_to_where_the_second_view_shows_it(flip):
    """A bright spot of the first view lies in the second one where ``carried`` says."""
    box, size = np.array([[10, 20, 40, 40]]), 64
    first, second = affine(np.array([[0, 0, size, size]]), np.array([False])), affine(box, np.array([flip]))
    image = torch.zeros(3, size, size, dtype=torch.uint8)
    image[:, 28:32, 36:40] = 255  # its middle is (38, 30)
    shown = resize_crops([image], box, np.array([flip]), size, "bilinear")[0, 0].float()
    rows, columns = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    seen = [float((shown * at).sum() / shown.sum() / size) for at in (columns, rows)]
    ((x, y),) = correspondence.carried(torch.tensor([[38 / size, 30 / size]]), first[0], second[0]).tolist()
    assert (x, y) == pytest.approx(seen, abs=0.01)


def test_the_most_similar_patch_is_that_of_all_pairs():
    random = torch.Generator().manual_seed(0)
    one, other = torch.randn(9, 4, generator=random), torch.randn(7, 4, generator=random)
    found = correspondence.matched(one, other)
    for row in range(9):
        cosines = [float(torch.cosine_similarity(one[row], other[at], dim=0)) for at in range(7)]
        assert int(found[row]) == int(np.argmax(cosines))


def test_chance_is_what_random_matches_score_and_nothing_exceeds_the_ceiling():
    random = torch.Generator().manual_seed(0)
    truth, places = torch.rand(40, 2, generator=random), correspondence.middles(GRID)
    drawn = [
        correspondence.correct(places[torch.randint(36, (40,), generator=random)], truth, 0.15).double().mean()
        for _ in range(400)
    ]
    assert correspondence.chance(truth, GRID, 0.15) == pytest.approx(float(np.mean(drawn)), abs=0.01)
    nearest = places[torch.cdist(truth, places).argmin(1)]
    best = correspondence.correct(nearest, truth, 0.1).double().mean()
    assert correspondence.ceiling(truth, GRID, 0.1) == pytest.approx(float(best)) and best < 1
