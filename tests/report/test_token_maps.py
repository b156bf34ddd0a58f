"""Feature maps and attention maps show what the features say."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from foundation.encoders import vit
from foundation.encoders.positions import PositionConfig
from foundation.errors import UserError
from foundation.modalities.drawing import foreground, main_directions, pca_colours
from foundation.modalities.image.tokenizer import Config as ImageTokenizer
from foundation.report.picture_table import Cell, Line, PictureTable, to_png, write
from foundation.report.token_maps import attention_of, by_token


def field(noise: float = 0.01) -> tuple[torch.Tensor, torch.Tensor]:
    """Two samples of 6 x 6 tokens: a square in the middle of either, its upper and lower half of different features."""
    regions = torch.zeros(2, 6, 6, dtype=torch.int64)
    regions[0, 1:3, 1:5], regions[0, 3:5, 1:5] = 1, 2
    regions[1, 2:4, 2:4], regions[1, 4, 2:4] = 1, 2
    means = torch.randn(3, 24, generator=torch.Generator().manual_seed(3)) * 3
    tokens = means[regions.reshape(2, 36)]
    return tokens + noise * torch.randn(tokens.shape, generator=torch.Generator().manual_seed(1)), regions.reshape(
        2, 36
    )


def test_equal_features_have_equal_colours_in_all_samples():
    tokens, regions = field()
    colours = pca_colours(tokens).astype(int)
    means = np.stack([colours[regions.numpy() == region].mean(axis=0) for region in range(3)])
    for region in range(3):  # of both samples together: one basis
        assert np.abs(colours[regions.numpy() == region] - means[region])[:, :2].max() < 30
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(means[one] - means[other])[:2].max() > 100


def test_colours_depend_on_the_features_alone():
    tokens, _ = field()
    assert (pca_colours(tokens) == pca_colours(tokens.clone())).all()
    turned = pca_colours(tokens.flip(0))[::-1]  # the order of the samples says nothing
    assert np.abs(turned.astype(int) - pca_colours(tokens)).max() <= 1
    scores = main_directions(tokens.reshape(72, 24).double(), 3)
    basis = torch.linalg.lstsq(
        scores, tokens.reshape(72, 24).double() - tokens.reshape(72, 24).double().mean(0)
    ).solution
    assert bool((basis.gather(1, basis.abs().argmax(1, keepdim=True)) > 0).all())  # the largest loading is positive


def test_the_foreground_is_what_does_not_touch_the_edge():
    tokens, regions = field()
    edge = torch.ones(6, 6, dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    tokens[regions > 0] += 20  # the square stands out by the first component
    for sign in (1, -1):  # whichever sign the component has
        found = foreground(sign * tokens, edge.reshape(-1))
        assert (found == (regions > 0)).all()
        assert (foreground(sign * tokens) == (regions > 0)).all()  # without an edge: the smaller side
        colours = pca_colours(sign * tokens, found)
        assert (colours[~found.numpy()] == 0).all() and colours[found.numpy()].max() > 200


def encoder(rotary: bool = False, class_token: bool = True, registers: int = 2) -> vit.Encoder:
    torch.manual_seed(0)
    position = PositionConfig(kind="rotary") if rotary else PositionConfig()
    config = vit.Config(
        preset=None, width=32, depth=2, heads=4, size=(16, 16), tokenizer=ImageTokenizer(patch_size=4),
        registers=registers, class_token=class_token, position=position,
    )  # fmt: skip
    made = config.build().eval()
    for parameter in made.parameters():  # small first weights attend to everything alike
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


@pytest.mark.parametrize("rotary", [False, True])
def test_the_map_of_a_block_is_the_softmax_that_the_class_token_has(rotary):
    view = torch.randn(2, 3, 16, 16)
    taps = ("attention_map.1", "attention.1", "queries.1", "keys.1")
    with torch.inference_mode():
        features = encoder(rotary)([view], taps=taps)[0]
    weights = features.taps["attention_map.1"]
    assert weights.shape == (2, 4, 19, 19)  # class token, two registers, sixteen patches
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 19))
    torch.testing.assert_close(weights[:, :, 0], features.taps["attention.1"])
    if not rotary:  # queries and keys are tapped before they are turned
        query, key = (features.taps[f"{kind}.1"].unflatten(-1, (4, 8)) for kind in ("queries", "keys"))
        expected = (torch.einsum("rqhd,rkhd->rhqk", query, key) * 8**-0.5).softmax(-1)
        torch.testing.assert_close(weights, expected)


def test_attention_of_the_class_token_and_of_each_register():
    made, view = encoder(), torch.randn(3, 16, 16)
    found = attention_of(made, view)
    assert list(found.weights) == ["class token", "register 1", "register 2"] and found.block == 1
    with torch.inference_mode():
        whole = made([view[None]], taps=("attention_map.0",))[0].taps["attention_map.0"][0]
    first = attention_of(made, view, 0)
    for row, weights in enumerate(first.weights.values()):
        torch.testing.assert_close(weights, whole[:, row, 3:])
    assert attention_of(made, view, -2).block == 0
    with pytest.raises(UserError, match="blocks 0 to 1"):
        attention_of(made, view, 2)


def test_without_class_token_and_registers_all_patches_are_asked():
    made, view = encoder(class_token=False, registers=0), torch.randn(3, 16, 16)
    (weights,) = attention_of(made, view).weights.values()
    torch.testing.assert_close(weights.sum(-1), torch.ones(4))  # only patches are there
    rows = torch.rand(1, 5, 5)
    torch.testing.assert_close(by_token(rows, 0, 5)["mean of patches"], rows.mean(1))


def test_a_table_as_png_has_every_picture_where_it_belongs(tmp_path):
    red, blue = (np.full((8, 8, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 0, 200)))
    lines = (Line((Cell(red, "first"), Cell(blue, kind="same")), "one"), Line((None, Cell(red)), "two", "head"))
    table = PictureTable("Title", ("said " * 60,), ("left", "right"), lines, (("same", "alike"),), most=(64, 64))
    with Image.open(io.BytesIO(to_png(table))) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    is_red, is_blue = (np.abs(pixels - colour).max(axis=-1) < 12 for colour in ((200, 0, 0), (0, 0, 200)))
    assert 60 * 60 * 2 < is_red.sum() < 66 * 66 * 2 and 58 * 58 < is_blue.sum() < 66 * 66
    places = [np.argwhere(mask).mean(axis=0) for mask in (is_red[: len(pixels) // 2 + 20], is_blue)]
    assert places[0][1] < places[1][1]  # left, right
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write(table, tmp_path / "file" / "x.png")


def test_names_on_a_page_are_text(tmp_path):
    hostile = "<script>alert(1)</script>"
    line = Line((Cell(np.zeros((4, 4, 3), np.uint8), hostile),), hostile)
    text = write(PictureTable(hostile, (hostile,), (hostile,), (line,)), tmp_path / "page.html").read_text()
    assert "<script" not in text and text.count("&lt;script&gt;") >= 5
