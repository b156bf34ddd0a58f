"""Tubelets: order of the tokens, parity with a 3-D convolution, both stems, positions in time."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from foundation.encoders import vit
from foundation.encoders.positions import PositionConfig
from foundation.errors import UserError
from foundation.modalities.video.tokenizer import Config


@pytest.mark.parametrize("tubelet", [1, 2, 3])
def test_tokens_are_those_of_the_convolution(tubelet):
    torch.manual_seed(0)
    tokenizer = Config(tubelet=tubelet, patch_size=4).build(16)
    clip = torch.randn(2, 3, 6, 8, 12)
    tokens, grid, valid = tokenizer(clip)
    assert grid == (6 // tubelet, 2, 3) and valid is None
    expected = tokenizer.projection(clip).flatten(2).transpose(1, 2)  # time slowest
    torch.testing.assert_close(tokens, expected)
    tokens.square().mean().backward()
    assert tokenizer.projection.weight.grad.abs().min() > 0


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_of_changes_only_motion_is_left(stem):
    torch.manual_seed(0)
    tokenizer = Config(tubelet=2, patch_size=4, stem=stem, shows="changes").build(16).eval()
    still = torch.randn(2, 3, 1, 8, 8).expand(-1, -1, 4, -1, -1)
    nothing, _, _ = tokenizer(torch.zeros(2, 3, 4, 8, 8))
    torch.testing.assert_close(tokenizer(still)[0], nothing)
    moving = still.clone()
    moving[0, :, 2:, :4, :4] += 1.0  # a step between frames 1 and 2 of one corner
    changed = (tokenizer(moving)[0] - nothing).abs().sum(-1) > 1e-4
    assert changed[0].reshape(2, 4)[1, 0] and not changed[0].reshape(2, 4)[0].any() and not changed[1].any()


def test_memory_order_of_views_changes_nothing():
    tokenizer = Config(patch_size=4).build(8)
    clip = torch.randn(2, 4, 3, 8, 8)
    plain, _, _ = tokenizer(clip.transpose(1, 2).contiguous())
    torch.testing.assert_close(tokenizer(clip.transpose(1, 2))[0], plain)


def test_the_conv_stem_sees_tubelets_too():
    torch.manual_seed(0)
    tokenizer = Config(tubelet=2, patch_size=8, stem="conv").build(32).eval()
    clip = torch.randn(1, 3, 4, 16, 24)
    tokens, grid, _ = tokenizer(clip)
    assert tuple(tokens.shape) == (1, 2 * 2 * 3, 32) and grid == (2, 2, 3)
    changed = clip.clone()
    changed[:, :, 3] += 1.0
    moved = (tokenizer(changed)[0] - tokens).abs().sum(-1)[0].view(2, 6)
    assert (moved[0] == 0).all() and (moved[1] > 0).all()
    assert tokenizer.flops(12) > Config(tubelet=2, patch_size=8).build(32).flops(0)


def test_coordinates_are_time_row_column():
    places = Config(tubelet=2, patch_size=4).coordinates((4, 8, 12))
    assert places.tolist() == [[t, r, c] for t in range(2) for r in range(2) for c in range(3)]
    assert places.dtype == np.int64


@pytest.mark.parametrize(
    ("size", "text"),
    [
        ((3, 8, 8), "3 frames of a clip are not a multiple of tokenizer.tubelet 2"),
        ((4, 8, 10), "10"),
        ((8, 8), r"set encoder.size to \[frames, height, width\]"),
    ],
)
def test_sizes_that_do_not_fit(size, text):
    with pytest.raises(UserError, match=text):
        Config(patch_size=4).coordinates(size)


def test_settings_and_inputs_that_cannot_work():
    with pytest.raises(UserError, match="shows"):
        Config(shows="flow")
    with pytest.raises(UserError, match="tubelet is 0"):
        Config(tubelet=0)
    with pytest.raises(UserError, match=r"expects views \[rows, 3, frames, height, width\], but got \[2, 3, 8, 8\]"):
        Config(patch_size=4).build(8)(torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize(
    "position",
    [PositionConfig(), PositionConfig(factorised=True), PositionConfig(kind="rotary")],
    ids=["joint", "factorised", "rotary"],
)
def test_an_encoder_of_clips_knows_time_and_takes_other_sizes(position):
    torch.manual_seed(0)
    config = vit.Config(
        preset=None, width=32, depth=2, heads=2, size=(4, 16, 16), position=position,
        tokenizer=Config(tubelet=2, patch_size=8),
    )  # fmt: skip
    assert config.modality == "video" and len(config.coordinates((4, 16, 16))) == 8
    encoder = config.build().eval()
    if position.factorised:
        torch.nn.init.normal_(encoder.positions.first_axis)
    clip = torch.randn(1, 3, 4, 16, 16)
    backwards = torch.cat([clip[:, :, 2:], clip[:, :, :2]], 2)  # the two tubelets change places
    (forward,), (turned,) = encoder([clip]), encoder([backwards])
    assert tuple(forward.patches.shape) == (1, 8, 32)
    if position.kind == "learned":  # rotary positions give the class token no place to see them from
        assert (forward.cls - turned.cls).abs().max() > 1e-4
    assert (forward.patches - turned.patches.roll(4, 1)).abs().max() > 1e-4
    long, small = encoder([torch.randn(2, 3, 8, 16, 16), torch.randn(2, 3, 4, 8, 24)])
    assert tuple(long.patches.shape) == (2, 16, 32) and tuple(small.patches.shape) == (2, 6, 32)


def test_settings_need_no_decoder():
    code = (
        "import sys; from foundation.modalities.video.tokenizer import Config; Config().coordinates((4, 32, 32));"
        "from foundation.modalities.video.views import Config; Config(); Config().evaluation();"
        "sys.exit('av' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_cells_and_hidden_places_are_those_of_the_tokens():
    tokenizer = Config(tubelet=2, patch_size=4).build(8)
    clip = torch.arange(2 * 3 * 4 * 8 * 12.0).view(2, 3, 4, 8, 12)
    cells = tokenizer.cells(clip)
    assert tuple(cells.shape) == (2, 12, *tokenizer.cell_shape) and tokenizer.cell_shape == (3, 2, 4, 4)
    assert torch.equal(cells[1, 6 + 3 + 2], clip[1, :, 2:4, 4:8, 8:12])  # time 1, row 1, column 2
    hidden = torch.zeros(2, 12, dtype=torch.bool)
    hidden[1, 11] = True
    covered = tokenizer.spread(hidden, clip)
    assert covered.sum() == 2 * 4 * 4 and covered[1, 0, 2:4, 4:8, 8:12].all()
