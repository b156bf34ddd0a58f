"""Turned views: what they show is where their geometry says, and it is all from within the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundation.counter import Draws
from foundation.modalities.image.view_config import ViewConfig
from foundation.modalities.image.views import Config

WIDTH, HEIGHT, COUNT = 90, 70, 24


def ramp() -> torch.Tensor:
    """A picture whose red says how far right a pixel is and whose green how far down, uint8 [3, H, W]."""
    x, y = torch.meshgrid(torch.arange(WIDTH) * 2, torch.arange(HEIGHT) * 3, indexing="xy")
    return torch.stack([x, y, torch.full_like(x, 40)]).to(torch.uint8)


def made(placement: str, **settings):
    config = Config(
        global_views=ViewConfig(count=2, size=24, scale=(0.3, 1.0), blur=(0.0,)),
        local_views=ViewConfig(count=2, size=16, scale=(0.05, 0.3), blur=(0.0,)),
        interpolation="bilinear",
        jitter=0.0,
        greyscale=0.0,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        placement=placement,
        **settings,
    )
    views = config.build()
    draws = Draws(3, np.zeros(COUNT, np.int64), np.arange(COUNT))
    samples = [{"image": ramp()}] * COUNT
    parts = [
        views.prepare(samples[:9], draws.take(np.arange(9))),
        views.prepare(samples[9:], draws.take(np.arange(9, COUNT))),
    ]
    return views.finish(views.prepare(samples, draws)), views.finish(views.join(parts, draws))


@pytest.mark.parametrize("placement", ["workers", "device"])
@pytest.mark.parametrize("degrees", [20.0, 180.0])
def test_a_turned_view_shows_the_places_that_its_geometry_names(placement, degrees):
    whole, joined = made(placement, degrees=degrees)
    for role, view in whole.items():
        assert torch.equal(view.data, joined[role].data) and torch.equal(view.geometry, joined[role].geometry)
        size = view.data.shape[-1]
        place = (torch.arange(size) + 0.5) / size
        u, v = torch.meshgrid(place, place, indexing="xy")
        source = torch.einsum("rij,jhw->rihw", view.geometry, torch.stack([u, v, torch.ones_like(u)]))
        assert source.min() >= -0.01 and source[:, 0].max() <= WIDTH + 0.01 and source[:, 1].max() <= HEIGHT + 0.01
        shown = view.data * 255
        # Away from the picture's edge, where the antialiasing filter is cut off.
        inner = (source[:, 0] > 4) & (source[:, 0] < WIDTH - 4) & (source[:, 1] > 4) & (source[:, 1] < HEIGHT - 4)
        assert inner.float().mean() > 0.7
        assert ((shown[:, 0] - (source[:, 0] - 0.5) * 2).abs()[inner] < 3.0).all()
        assert ((shown[:, 1] - (source[:, 1] - 0.5) * 3).abs()[inner] < 4.0).all()
        turn = torch.atan2(-view.geometry[:, 0, 1], view.geometry[:, 1, 1])
        assert turn.abs().max() <= np.deg2rad(degrees) + 1e-4 and turn.std() > np.deg2rad(degrees) / 3


def test_without_degrees_nothing_is_drawn_or_changed():
    upright, _ = made("workers")
    assert all(not view.geometry[:, 0, 1].any() for view in upright.values())
