"""Film strips."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundation.modalities.video import picture


def test_a_strip_of_frames_in_order():
    frames = torch.zeros(4, 3, 10, 12, dtype=torch.uint8)
    frames[:, 0] = torch.tensor([10, 60, 110, 160], dtype=torch.uint8)[:, None, None]
    strip = picture.to_rgb(frames)
    assert strip.shape == (10, 4 * 12 + 3 * 2, 3) and strip.dtype == np.uint8
    assert strip[5, 6::14, 0].tolist() == [10, 60, 110, 160]
    folded = picture.to_rgb(frames.repeat(2, 1, 1, 1)[:6])
    assert folded.shape == (2 * 10 + 2, 4 * 12 + 3 * 2, 3) and folded[17, 6::14, 0].tolist() == [10, 60, 32, 32]
    assert picture.to_rgb(frames, most=2)[5, 6::14, 0].tolist() == [60, 160]
    with pytest.raises(ValueError, match="a clip is float"):
        picture.to_rgb(frames[0])


def test_a_normalised_view_looks_as_its_frames():
    frames = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    mean, std = torch.tensor(picture.IMAGENET_MEAN), torch.tensor(picture.IMAGENET_STD)
    view = ((frames / 255 - mean[:, None, None]) / std[:, None, None]).transpose(0, 1)
    np.testing.assert_allclose(picture.to_rgb(view).astype(int), picture.to_rgb(frames).astype(int), atol=1)


def test_masks_and_maps_fall_on_their_frames():
    frames = torch.full((4, 3, 16, 16), 100, dtype=torch.uint8)
    masked = torch.zeros(2, 2, 2, dtype=torch.bool)
    masked[1, 0, 1] = True  # second half of the clip, upper right
    strip = picture.mask_overlay(frames, masked.reshape(-1), (2, 2, 2))
    cells = [strip[:, 18 * i : 18 * i + 16] for i in range(4)]
    plain = picture.to_rgb(frames)[:, :16]
    assert (cells[0] == plain).all() and (cells[1] == plain).all()
    for cell in cells[2:]:
        assert (cell[:8, 8:] != plain[:8, 8:]).any() and (cell[8:] == plain[8:]).all()
    heat = np.zeros((2, 2, 2))
    heat[0, 0, 0] = 1.0
    warm = picture.overlay(frames, heat)
    assert (warm[:3, :3] != warm[-3:, 13:16]).any()
    assert np.abs(warm[:3, 36:39].astype(int) - warm[-3:, 49:52]).max() == 0


def test_features_as_colours():
    torch.manual_seed(0)
    maps = picture.pca_rgb(torch.randn(2, 12, 16), (3, 2, 2))
    assert maps.shape == (2, 2, 6, 3) and maps.dtype == np.uint8
    heat = np.zeros((3, 2, 2))
    heat[2, 0, 1] = 1.0
    strip = picture.heat_rgb(heat).astype(int).sum(-1)
    assert strip.shape == (2, 6) and np.unravel_index(strip.argmax(), strip.shape) == (0, 5)
    assert picture.heat_rgb(np.arange(24.0).reshape(6, 2, 2)).shape == (4, 8, 3)  # four times in a line, then two
    assert picture.pca_rgb(torch.randn(1, 32, 16), (8, 2, 2)).shape == (1, 4, 8, 3)
