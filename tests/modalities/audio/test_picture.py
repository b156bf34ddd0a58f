"""Spectrograms to look at: low notes at the bottom, hidden tokens dimmed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundation.modalities.audio import picture


def test_low_bands_lie_at_the_bottom():
    view = torch.zeros(1, 32, 40)
    view[0, 2] = 5.0  # a low note
    image = picture.to_rgb(view)
    assert image.dtype == np.uint8 and image.shape == (96, 120, 3)
    bright = image.astype(int).sum(-1).mean(1)
    assert 96 - 3 * 3 <= bright.argmax() < 96 - 3 * 2
    with pytest.raises(ValueError, match="a spectrogram is"):
        picture.to_rgb(torch.zeros(3, 4, 5))


def test_mask_dims_its_own_corner():
    view = torch.rand(1, 32, 64)
    masked = torch.zeros(4, 8, dtype=torch.bool)
    masked[0, 0] = True  # lowest bands, first frames: bottom left
    plain, hidden = picture.to_rgb(view), picture.mask_overlay(view, masked.flatten(), (4, 8))
    changed = (plain != hidden).any(-1)
    rows, columns = changed.nonzero()
    assert rows.min() >= plain.shape[0] * 3 // 4 and columns.max() < plain.shape[1] // 8


def test_components_and_heat_are_the_same_way_up():
    patches = torch.randn(2, 4 * 8, 16)
    patches[:, :8] += 20  # lowest row
    colours = picture.pca_rgb(patches, (4, 8))
    assert colours.shape == (2, 4, 8, 3)
    spread = np.abs(colours[:, 3].astype(int).mean(1) - colours[:, 0].astype(int).mean(1)).max()
    assert spread > 50
    heat = torch.zeros(4, 8)
    heat[0] = 1
    assert picture.heat_rgb(heat)[3].astype(int).sum() > picture.heat_rgb(heat)[0].astype(int).sum()
    assert picture.overlay(torch.rand(1, 32, 64), heat).shape == picture.to_rgb(torch.rand(1, 32, 64)).shape


@pytest.mark.parametrize("seconds", [0.01, 1.0, 5.2, 60.0])
def test_recordings_of_all_lengths_are_drawn(seconds):
    audio = torch.sin(torch.arange(round(seconds * 8000)) * 0.3)
    drawn = picture.of_sample({"audio": audio, "audio_rate": 8000})
    assert drawn.dtype == np.uint8 and drawn.shape[2] == 3 and drawn.std() > 0
