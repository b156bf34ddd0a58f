"""Label propagation against loops over patches, J and F against distances of all pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from foundation.probes.dense_prediction import propagation


def test_propagation_is_that_of_a_loop():
    random = torch.Generator().manual_seed(0)
    grid, frames, classes = (3, 4), 6, 3
    features = torch.randn(frames, 12, 5, generator=random)
    labels = torch.rand(12, classes, generator=random)
    labels /= labels.sum(1, keepdim=True)
    found = propagation.propagate(features, labels, grid, context=2, radius=1, top=4, temperature=0.2)
    known = [labels]
    for time in range(1, frames):
        now = torch.zeros(12, classes)
        for patch in range(12):
            candidates = []
            for source in sorted({0, *range(max(0, time - 2), time)}):
                for other in range(12):
                    if max(abs(patch // 4 - other // 4), abs(patch % 4 - other % 4)) <= 1:
                        cosine = float(torch.cosine_similarity(features[time, patch], features[source, other], dim=0))
                        candidates.append((math.exp(cosine / 0.2), known[source][other]))
            best = sorted(candidates, key=lambda pair: -pair[0])[:4]
            now[patch] = sum(weight * label for weight, label in best) / sum(weight for weight, _ in best)
        known.append(now)
    torch.testing.assert_close(found, torch.stack(known), atol=1e-5, rtol=1e-4)


def test_a_pattern_that_moves_is_followed():
    """Features that move with the object carry its labels along."""
    grid, frames = (6, 6), 5
    ground = torch.eye(36)
    features, masks = [], []
    for time in range(frames):
        here = ground.roll(time, dims=0)  # everything moves one patch along the rows' order
        features.append(here)
        mask = torch.zeros(36)
        mask[[7, 8, 13]] = 1
        masks.append(mask.roll(time))
    labels = torch.stack([1 - masks[0], masks[0]], 1)
    found = propagation.propagate(torch.stack(features), labels, grid, radius=6, top=1)
    torch.testing.assert_close(found[..., 1], torch.stack(masks))


def test_maps_of_objects_fill_the_picture():
    labels = torch.zeros(4, 2)
    labels[:2, 0], labels[2:, 1] = 1, 0.2  # the second object is faint, but stretched to 1
    assert propagation.masks_of(labels, (2, 2), (4, 4)).tolist() == [[0] * 4] * 2 + [[1] * 4] * 2


def discs(*places: tuple[float, float, float]) -> list[np.ndarray]:
    rows, columns = np.mgrid[0:60, 0:80]
    return [(rows - y) ** 2 + (columns - x) ** 2 < radius**2 for x, y, radius in places]


@pytest.mark.parametrize("other", [(40, 30, 12), (43, 31, 12), (60, 30, 9), (78, 4, 15)])
def test_outlines_agree_as_distances_of_all_their_pixels_say(other):
    truth, found = discs((40, 30, 12), other)
    near = math.ceil(0.008 * math.hypot(60, 80))
    outlines = []
    for mask in (found, truth):
        edge = np.zeros_like(mask)
        for row in range(60):
            for column in range(80):
                for down, right in ((0, 1), (1, 0), (1, 1)):
                    r, c = min(row + down, 59), min(column + right, 79)
                    edge[row, column] |= mask[row, column] != mask[r, c]
        np.testing.assert_array_equal(propagation.boundary(mask), edge)
        outlines.append(np.argwhere(edge))
    distances = np.sqrt(((outlines[0][:, None] - outlines[1][None]) ** 2).sum(-1))
    precision, recall = (distances.min(1) <= near).mean(), (distances.min(0) <= near).mean()
    wanted = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    assert propagation.contour(found, truth) == pytest.approx(wanted)
    assert propagation.region(found, truth) == pytest.approx((found & truth).sum() / (found | truth).sum())


def test_objects_that_are_not_there():
    (disc,), nothing = discs((40, 30, 12)), np.zeros((60, 80), bool)
    assert propagation.region(nothing, nothing) == propagation.contour(nothing, nothing) == 1.0
    assert propagation.region(disc, nothing) == propagation.contour(disc, nothing) == 0.0
