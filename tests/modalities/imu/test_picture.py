"""Traces, attention behind them, hidden stretches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundation.modalities.imu import picture


def test_traces_lie_where_the_readings_are():
    view = torch.zeros(6, 64)
    view[0, 32:] = 1.0  # x of the accelerometer jumps up half way
    view[5] = -1.0  # z of the gyroscope is low all the time
    drawn = picture.to_rgb(view, height=80, width=128).astype(int)
    assert drawn.shape == (160, 128, 3)
    red = (drawn[..., 0] > 180) & (drawn[..., 1] < 120)
    blue = (drawn[..., 2] > 170) & (drawn[..., 0] < 120)
    assert red[:12, 70:].any() and not red[:12, :60].any() and not red[80:].any(0).all()
    assert blue[148:].any(0).mean() > 0.9 and not blue[84:140].any()
    assert picture.to_rgb(torch.randn(4, 32), (0.0,) * 4, (1.0,) * 4).shape == (192, 256, 3)
    with pytest.raises(ValueError, match="channels, time steps"):
        picture.to_rgb(torch.zeros(3))


def test_attention_and_masks_colour_the_paper_behind():
    view, heat = torch.zeros(6, 64), torch.zeros(1, 8)
    heat[0, 6] = 1.0
    shown = picture.overlay(view, heat).astype(int).sum(-1)
    assert shown[10, 208] > shown[10, 40] + 100 and shown[110, 208] > shown[110, 40] + 100
    masked = torch.zeros(6, 8, dtype=torch.bool)
    masked[4, 2] = True  # of the gyroscope
    hidden = picture.mask_overlay(view, masked.reshape(-1), (6, 8))
    assert (hidden[110, 80] < 200).all() and (hidden[10, 80] > 240).all() and (hidden[110, 200] > 240).all()


def test_maps_of_one_row_are_bands():
    assert picture.heat_rgb(np.arange(12.0)[None]).shape == (3, 12, 3)
    assert picture.heat_rgb(np.zeros((6, 12))).shape == (6, 12, 3)
    colours = picture.pca_rgb(torch.randn(2, 12, 16), (1, 12))
    assert colours.shape == (2, 3, 12, 3) and (colours[:, 0] == colours[:, 2]).all()
