"""Pictures: colours come back, maps lie where they belong, equal features get equal colours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundation.modalities.image import picture
from foundation.modalities.image.evaluation import IMAGENET_MEAN, IMAGENET_STD


def test_to_rgb_undoes_the_normalisation():
    pixels = torch.randint(0, 256, (3, 9, 7), dtype=torch.uint8)
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    expected = pixels.permute(1, 2, 0).numpy()
    assert np.array_equal(picture.to_rgb((pixels / 255 - mean) / std), expected)
    assert np.array_equal(picture.to_rgb(pixels), expected) and np.array_equal(picture.to_rgb(expected), expected)
    with pytest.raises(ValueError, match="3, H, W"):
        picture.to_rgb(torch.zeros(4, 5, 5))


def test_overlay_is_bright_where_the_map_is_high():
    grey, heat = torch.full((3, 64, 64), 100, dtype=torch.uint8), torch.zeros(4, 4)
    heat[0, 3] = 1.0
    shown = picture.overlay(grey, heat).astype(int).sum(-1)
    assert shown.shape == (64, 64) and shown[4, 60] > shown[60, 4] + 150
    assert picture.heat_rgb(np.array([[np.nan, 1.0], [0.0, 2.0]])).shape == (2, 2, 3)
    assert picture.heat_rgb(torch.zeros(2, 2)).max() < 10


def test_mask_overlay_touches_only_masked_patches():
    image = torch.full((3, 32, 48), 250, dtype=torch.uint8)
    masked = torch.zeros(6, dtype=torch.bool)
    masked[4] = True  # row 1, column 1 of 2 x 3
    shown = picture.mask_overlay(image, masked, (2, 3))
    inside = np.zeros((32, 48), bool)
    inside[16:, 16:32] = True
    assert (shown[~inside] == 250).all() and (shown[inside] < 200).all()


def test_pca_gives_equal_features_equal_colours():
    kinds = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    which = torch.randint(0, 3, (2, 12), generator=torch.Generator().manual_seed(1))
    maps = picture.pca_rgb(kinds[which], (3, 4))
    assert maps.shape == (2, 3, 4, 3) and maps.dtype == np.uint8
    flat = maps.reshape(-1, 3).astype(int)
    for k in range(3):
        assert (np.ptp(flat[which.ravel() == k], axis=0) <= 1).all()
    assert len({tuple(c) for c in flat}) >= 3
    assert picture.pca_rgb(torch.zeros(1, 4, 2), (2, 2)).shape == (1, 2, 2, 3)
    with pytest.raises(ValueError, match="grid"):
        picture.pca_rgb(torch.zeros(1, 5, 8), (2, 2))
