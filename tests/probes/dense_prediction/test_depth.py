"""Formulas of depth against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from foundation.probes.dense_prediction import depth


def test_the_mean_of_the_bins_is_the_depth():
    random = np.random.default_rng(0)
    depths = torch.from_numpy(random.uniform(1.0, 9.0, (12, 8))).float()
    depths[random.random((12, 8)) < 0.3] = 0.0
    bins = depth.centres(1.0, 9.0, 7)
    found = depth.shares(depths, (3, 4), bins)
    for row in range(3):
        for column in range(4):
            cell = depths[4 * row : 4 * row + 4, 2 * column : 2 * column + 2]
            known = cell[cell > 0]
            assert float(found[4 * row + column].sum()) == pytest.approx(len(known) / 8)
            assert float(found[4 * row + column] @ bins) == pytest.approx(float(known.sum()) / 8, rel=1e-5)


def test_depth_of_logits_is_the_mean_by_shares():
    logits = torch.zeros(3, 1, 2)
    logits[:, 0, 1] = torch.tensor([0.0, 50.0, 0.0])
    assert depth.expected(logits, torch.tensor([1.0, 3.0, 8.0]))[0].tolist() == pytest.approx([4.0, 3.0])


def test_errors_are_those_of_the_definitions():
    random = np.random.default_rng(1)
    truth, found = random.uniform(0.5, 5.0, (2, 6, 5))
    truth[0] = 0.0
    squares, shares, close, count = 0.0, 0.0, 0, 0
    for real, said in zip(truth.ravel(), found.ravel(), strict=True):
        if real > 0:
            squares, shares, count = squares + (said - real) ** 2, shares + abs(said - real) / real, count + 1
            close += max(said / real, real / said) < 1.25
    wanted = (math.sqrt(squares / count), shares / count, close / count)
    assert depth.errors(torch.from_numpy(found), torch.from_numpy(truth)) == pytest.approx(wanted)
    assert all(map(math.isnan, depth.errors(torch.ones(2, 2), torch.zeros(2, 2))))


def test_unknown_depths_have_no_part_in_the_span():
    maps = [np.array([[0.0, 2.0], [np.nan, -1.0]]), np.array([[np.inf, 5.0]])]
    assert depth.span(maps) == (2.0, 5.0)
    assert depth.span([np.zeros((2, 2))]) == (math.inf, -math.inf)
