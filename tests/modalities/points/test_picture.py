"""Pictures of points: near points over far ones, colours where they belong, and the report page."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from foundation.cli import main
from foundation.modalities.points import picture
from foundation.modalities.points.evaluation import EvaluationConfig


def ball(count: int = 600) -> torch.Tensor:
    points = torch.randn(3, count, generator=torch.Generator().manual_seed(0))
    return points / points.norm(dim=0)


def inked(drawing: np.ndarray) -> np.ndarray:
    return (drawing != 250).any(axis=-1)


def test_three_drawings_in_their_frames():
    drawn = picture.to_rgb(ball(), side=100)
    assert drawn.shape == (100, 300, 3) and drawn.dtype == np.uint8
    for part in np.split(drawn, 3, axis=1):
        ink = inked(part)
        rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
        assert rows[0] in range(1, 10) and rows[-1] in range(92, 100), "the ball fills the height"
        assert columns[0] in range(1, 10) and columns[-1] in range(92, 100)
    assert np.array_equal(picture.to_rgb(ball().T), picture.to_rgb(ball())), "a decoded cloud [N, 3] too"
    for wrong in (torch.zeros(2, 50), torch.zeros(3), torch.zeros(0, 3)):
        with pytest.raises(ValueError, match="channels, points"):
            picture.to_rgb(wrong)
    assert inked(picture.to_rgb(torch.zeros(3, 70))).sum() > 0, "a cloud of one place is a dot"


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_up_is_up(up):
    pole = torch.zeros(3, 100)
    pole["xyz".index(up)] = torch.linspace(-1, 1, 100)
    side, _, top = np.split(picture.to_rgb(pole, up=up, side=90), 3, axis=1)
    assert inked(side).any(1).sum() > 70 and inked(side).any(0).sum() < 12, "a line from the side"
    assert inked(top).any(1).sum() < 12, "a dot from above"
    bright = side.astype(int).sum(-1)
    assert bright[8:12][inked(side)[8:12]].mean() > bright[-16:-10][inked(side)[-16:-10]].mean(), "high is bright"


def test_near_points_hide_far_ones():
    points = torch.zeros(80, 3)
    points[:40, 2], points[40:, 2] = 1.0, -1.0
    red_above = np.where(points[:, 2:] > 0, [[255, 0, 0]], [[0, 0, 255]]).astype(np.uint8)
    top = picture.render(points.numpy(), red_above, side=60)[:, 120:]
    assert (top[inked(top)][:, 0] > 200).all() and (top[inked(top)][:, 2] == 0).all()


def test_maps_lie_where_their_tokens_are():
    view = ball(2000)
    places = torch.tensor([[0.0, 0, 1], [0, 0, -1]])
    top = np.split(picture.overlay(view, torch.tensor([1.0, 0.0]), places), 3, axis=1)[2]
    below = np.split(picture.overlay(view, torch.tensor([0.0, 1.0]), places), 3, axis=1)[2]
    assert top[inked(top)].mean() > 1.2 * below[inked(below)].mean()
    colours = torch.tensor([[255, 0, 0], [0, 255, 0]], dtype=torch.uint8)
    seen = np.split(picture.overlay(view, colours, places), 3, axis=1)[2]
    assert seen[inked(seen)][:, 0].mean() > 1.4 * seen[inked(seen)][:, 1].mean() and not seen[inked(seen)][:, 2].any()
    hidden = picture.mask_overlay(view, torch.tensor([True, False]), places)
    plain = picture.to_rgb(view)
    changed = (hidden != plain).any(axis=-1)
    assert 0.3 < changed[:, 320:].sum() / inked(plain[:, 320:]).sum() <= 1.0, "the upper half is grey"
    assert np.array_equal(picture.mask_overlay(view, torch.zeros(2, dtype=torch.bool), places), plain)


def test_equal_features_get_equal_colours():
    patches = torch.zeros(2, 6, 8)
    patches[0, :3] = patches[1, 3:] = torch.randn(8)
    colours = picture.pca_colours(patches)
    assert colours.shape == (2, 6, 3) and np.array_equal(colours[0, :3], colours[1, 3:])
    assert (colours[0, 0] != colours[0, 5]).any()


def test_the_report_shows_shapes_with_attention_and_colours(small_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    assert main(["report", str(run), "--samples", "2"]) == 0
    page = (run / "report.html").read_text()
    assert page.count("data:image/") >= 2 * (1 + 3 + 1) + 6, "cloud, mean and two heads, colours; and neighbours"
    assert "head 2" in page and "are not drawn" not in page


def test_evaluation_keeps_what_is_up():
    from foundation.modalities.points.views import Config, for_probe

    evaluation = Config(up="y").evaluation()
    assert evaluation.up == "y" and for_probe(evaluation).up == "y" and for_probe(evaluation).rotation == "axis"
    assert EvaluationConfig().up == "z"
