"""Images to tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundation.errors import UserError
from foundation.modalities.image.tokenizer import Config


def test_coordinates_are_row_major():
    places = Config(patch_size=4).coordinates((8, 12))
    assert places.dtype == np.int64
    assert places.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_tokens_lie_where_the_coordinates_say(stem):
    torch.manual_seed(0)
    config = Config(patch_size=8, stem=stem)
    module = config.build(24)
    image = torch.randn(1, 3, 24, 40)
    blank, grid, valid = module(image)
    assert blank.shape == (1, 15, 24) and grid == (3, 5) and valid is None
    image[:, :, 10:14, 26:30] += 2.0  # the middle of the patch at row 1, column 3
    changed = (module(image)[0] - blank).abs().sum(-1)[0]
    assert config.coordinates((24, 40))[changed.argmax()].tolist() == [1, 3]
    if stem == "patch":
        assert changed.count_nonzero() == 1


def test_patch_stem_is_a_linear_map_of_the_pixels():
    module = Config(patch_size=4).build(16)
    image = torch.randn(2, 3, 8, 8)
    patch = image[:, :, 4:8, 0:4].flatten(1)
    by_hand = patch @ module.projection.weight.flatten(1).T + module.projection.bias
    torch.testing.assert_close(module(image)[0][:, 2], by_hand)


def test_conv_stem_keeps_far_pixels_apart():
    module = Config(patch_size=4, stem="conv").build(16).eval()
    image = torch.randn(1, 3, 32, 32)
    changed = image.clone()
    changed[:, :, :4, :4] += 1
    difference = (module(image)[0] - module(changed)[0]).abs().sum(-1).view(8, 8)
    assert difference[0, 0] > 0
    assert difference[2:].max() == 0 and difference[:, 2:].max() == 0


@pytest.mark.parametrize(
    ("size", "fits"),
    [((30, 30), "28x28 or 32x32"), ((32, 33), "32x32 or 32x36"), ((2, 8), "4x8"), ((224, 225), "224x224 or 224x228")],
)
def test_sizes_that_do_not_fit(size, fits):
    with pytest.raises(UserError, match=f"{size[0]}x{size[1]} is not a multiple of the patch size 4.*fit are {fits}$"):
        Config(patch_size=4).coordinates(size)


def test_impossible_settings():
    with pytest.raises(UserError, match="patch_size is 0"):
        Config(patch_size=0)
    with pytest.raises(UserError, match=r"patch_size is 14 with stem 'conv'.*power of two"):
        Config(patch_size=14, stem="conv")
    with pytest.raises(UserError, match=r"expects views \[rows, 3, height, width\], but got \[2, 1, 8, 8\]"):
        Config(patch_size=4).build(8)(torch.zeros(2, 1, 8, 8))
