"""Tokens of inertial readings: where they lie, what they cover, and that nothing else reaches them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundation.encoders import vit
from foundation.errors import UserError
from foundation.modalities.imu.tokenizer import Config
from tests.encoders.inputs import inputs


def test_places_of_both_layouts():
    joint, axis = Config(patch=8), Config(patch=8, layout="axis")
    assert joint.grid((32,)) == (1, 4) and axis.grid((32,)) == (6, 4)
    assert joint.coordinates((32,)).tolist() == [[0, 0], [0, 1], [0, 2], [0, 3]]
    assert axis.coordinates((32,))[:5].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]]


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("layout", ["joint", "axis"])
def test_a_token_sees_its_own_stretch(layout, stem):
    torch.manual_seed(0)
    settings = Config(patch=8, layout=layout, stem=stem)
    tokenizer = settings.build(32).eval()
    view = torch.randn(2, 6, 48, requires_grad=True)
    tokens, grid, valid = tokenizer(view)
    assert tokens.shape == (2, grid[0] * grid[1], 32) and valid is None
    places = settings.coordinates((48,))
    number = len(places) - 3
    tokens[1, number].sum().backward()
    reached = (view.grad != 0).numpy()
    row, column = places[number]
    own = np.zeros((2, 6, 48), bool)
    own[1, slice(None) if layout == "joint" else row, 8 * column : 8 * column + 8] = True
    if stem == "patch":
        assert (reached == own).all()
    else:  # neighbouring stretches overlap by some steps; other channels and rows stay out of it
        assert reached[own].mean() > 0.5 and not reached[0].any()
        assert not reached[1][~own[1].any(1)].any() and not reached[1][:, : 8 * column - 8].any()


@pytest.mark.parametrize("layout", ["joint", "axis"])
def test_cells_are_the_readings_that_a_token_covers(layout):
    settings = Config(patch=4, channels=3, layout=layout)
    tokenizer = settings.build(16)
    view = torch.randn(2, 3, 20)
    cells = tokenizer.cells(view)
    assert cells.shape[1:] == (len(settings.coordinates((20,))), *tokenizer.cell_shape)
    for number, (row, column) in enumerate(settings.coordinates((20,)).tolist()):
        part = view[:, :, 4 * column : 4 * column + 4]
        wanted = part if layout == "joint" else part[:, row]
        assert torch.equal(cells[:, number].reshape(wanted.shape), wanted)
        hidden = torch.zeros(2, len(cells[0]), dtype=torch.bool)
        hidden[1, number] = True
        marked = tokenizer.spread(hidden, view).expand_as(view)
        assert int(marked.sum()) == wanted[0].numel() and torch.equal(
            view[1][marked[1]].reshape(wanted[1].shape), wanted[1]
        )


def test_the_projection_is_a_strided_convolution():
    tokenizer = Config(patch=8).build(16)
    view = torch.randn(3, 6, 64)
    expected = torch.nn.functional.conv1d(view, tokenizer.projection.weight, tokenizer.projection.bias, stride=8)
    assert torch.allclose(tokenizer(view)[0], expected.transpose(1, 2), atol=1e-5)
    assert tokenizer.flops(8) == 2 * 8 * 16 * 6 * 8


@pytest.mark.parametrize("layout", ["joint", "axis"])
def test_an_encoder_takes_windows_of_several_lengths(layout):
    torch.manual_seed(0)
    settings = vit.Config(
        preset=None, width=32, depth=2, heads=2, size=(64,), tokenizer=Config(patch=8, layout=layout, stem="conv")
    )
    encoder = settings.build()
    assert encoder.modality == "imu"
    rows = len(settings.coordinates((64,)))
    long, short = encoder(inputs([torch.randn(3, 6, 64), torch.randn(2, 6, 32)], [torch.rand(3, rows) > 0.5, None]))
    assert long.patches.shape == (3, rows, 32) and short.patches.shape == (2, rows // 2, 32)
    (long.cls.sum() + short.patches.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    encoder.reset_parameters()
    assert encoder.flops([(1, 6, 64)]) > 0


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: Config(patch=0), "patch is 0"),
        (lambda: Config(patch=12, stem="conv"), "power of two"),
        (lambda: Config(channels=0), "channels is 0"),
        (lambda: Config(layout="both"), "layout is 'both'"),
        (lambda: Config(patch=16).grid((40,)), "the nearest that fit are 32 and 48"),
        (lambda: Config(patch=16).grid((4, 40)), r"set encoder.size to \[steps\]"),
        (lambda: Config().build(8)(torch.zeros(2, 3, 32)), "tokenizer.channels"),
    ],
)
def test_mistakes_are_explained(make, match):
    with pytest.raises(UserError, match=match):
        make()
