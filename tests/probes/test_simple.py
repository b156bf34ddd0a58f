"""Simple features: what each of them keeps and what it does not see."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from foundation.modalities.parts import evaluation_config, part, simple_features

MODALITIES = Path(__file__).resolve().parents[2] / "foundation" / "modalities"
VIEWS = {
    "image": (3, 32, 32),
    "audio": (1, 16, 40),
    "points": (3, 256),
    "video": (3, 6, 24, 24),
    "imu": (6, 64),
}


@pytest.mark.parametrize("modality", VIEWS)
def test_each_sample_has_its_own_features_whatever_stands_beside_it(modality):
    views = torch.randn(5, *VIEWS[modality], generator=torch.Generator().manual_seed(0))
    found = simple_features(modality, evaluation_config(modality, None))
    assert found
    for name, function in found.items():
        features = function(views)
        assert features.ndim == 2 and len(features) == 5 and torch.isfinite(features).all(), name
        torch.testing.assert_close(function(views[3:4])[0], features[3], msg=name)
        assert not torch.allclose(features[0], features[1])
        silent = function(torch.zeros(2, *VIEWS[modality]))  # silence, a still clip, a cloud of one place
        assert torch.isfinite(silent).all(), name


def test_every_modality_has_a_room_for_them():
    folders = {path.parent.name for path in MODALITIES.glob("*/views.py")}
    assert folders == {path.parent.name for path in MODALITIES.glob("*/simple.py")} == {*VIEWS, "paired"}


def test_a_pair_is_measured_by_what_the_probe_sees_of_it():
    evaluation = part("paired", "views").EvaluationConfig(modality="imu")
    assert simple_features("paired", evaluation).keys() == simple_features("imu", None).keys()


def test_sound_played_backwards_is_the_same_on_the_whole():
    views = torch.randn(2, 1, 8, 30)
    function, parts, deltas = simple_features("audio", None).values()
    torch.testing.assert_close(function(views), function(views.flip(3)))
    assert not torch.allclose(parts(views), parts(views.flip(3)))  # these know what comes first
    torch.testing.assert_close(parts(views)[:, :8], views[:, 0, :, :8].mean(2))
    assert not torch.allclose(function(views), function(views.flip(2)))
    forward, backward = deltas(views), deltas(views.flip(3))
    torch.testing.assert_close(forward[:, :16], function(views))
    torch.testing.assert_close(forward[:, 16:24], -backward[:, 16:24])  # what rose falls
    torch.testing.assert_close(forward[:, 24:32], backward[:, 24:32])


def test_a_band_that_rises_steadily_has_that_slope():
    from foundation.modalities.audio.simple import slope

    rising = 0.5 * torch.arange(12.0).expand(1, 1, 12)
    torch.testing.assert_close(slope(rising)[0, 0, 2:-2], torch.full((8,), 0.5))
    assert (slope(rising)[0, 0, [0, -1]] < 0.5).all()  # the ends go on level


def test_features_of_clouds_stay_when_they_are_turned():
    generator = torch.Generator().manual_seed(1)
    clouds = torch.randn(3, 3, 200, generator=generator, dtype=torch.float64).float() * torch.tensor(
        [[[1], [2], [4.0]]]
    )
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator))
    stored = {"quantiles of the axes", "occupancy grid", "shapes and directions of neighbourhoods"}
    for name, function in simple_features("points", None).items():
        before, after = function(clouds), function(turn @ clouds)
        if name in stored:
            assert (before - after).abs().max() > 0.05, name
        else:
            torch.testing.assert_close(after, before, atol=6e-3, rtol=1e-3, msg=name)  # one point over a cell's border


def test_neighbourhoods_tell_lines_from_planes_from_solids():
    generator = torch.Generator().manual_seed(0)
    line, plane, solid = (torch.rand(1, 3, 600, generator=generator) for _ in range(3))
    line[:, 1:], plane[:, 2:] = 0, 0
    function = simple_features("points", None)["shapes of neighbourhoods"]
    for cloud, most in ((line, 0), (plane, 1), (solid, 2)):
        shares = function(cloud).reshape(4, 16)[:3].median(dim=1).values  # line-like, flat, scattered
        assert shares.argmax() == most, shares


def test_an_occupied_cell_holds_its_share_of_the_points():
    cloud = torch.tensor([[[-1.0, -1.0, 1.0, 1.0], [-1.0, -1.0, 1.0, 1.0], [1.0, 1.0, -1.0, -1.0]]])
    grid = simple_features("points", None)["occupancy grid"](cloud).reshape(6, 6, 6)
    assert grid[0, 0, 5] == 0.5 and grid[5, 5, 0] == 0.5 and grid.sum() == 1


def test_a_turned_sensor_keeps_the_features_of_its_lengths():
    view = torch.randn(1, 6, 64)
    turn, _ = torch.linalg.qr(torch.randn(3, 3))
    turned = torch.cat([turn @ view[:, :3], turn @ view[:, 3:]], dim=1)
    function = simple_features("imu", None)["statistics of each axis"]
    before, after = function(view).reshape(7, 8), function(turned).reshape(7, 8)
    torch.testing.assert_close(before[:, 6:], after[:, 6:])
    assert not torch.allclose(before[:, :6], after[:, :6])


def test_the_spectra_of_short_stretches_know_bursts_from_a_steady_hum():
    times = torch.arange(128.0)
    hum = torch.sin(2 * torch.pi * 6 / 32 * times).expand(1, 6, 128)
    bursts = 2.0 * hum * (times % 64 < 16)
    function = simple_features("imu", None)["spectrum of short stretches"]
    steady, broken = (function(view).reshape(8, 32)[0, 16:] for view in (hum, bursts))  # deviation over time
    assert steady[5] < 0.1 and broken[5] > 1


def test_a_clip_is_known_by_where_it_changes():
    clip = torch.zeros(1, 3, 4, 24, 24)
    clip[:, :, 1::2, :12] = 1.0  # the upper half blinks
    changes = simple_features("video", None)["changes between frames"](clip)[0]
    assert torch.equal(changes[:144].reshape(12, 12)[:6], torch.ones(6, 12))
    assert not changes[:144].reshape(12, 12)[6:].any()
    assert torch.equal(changes[144:], torch.full((3,), 0.5))


def test_hog_is_what_dalal_and_triggs_describe():
    """Against loops over pixels, cells and blocks."""
    view = torch.randn(1, 3, 24, 32, generator=torch.Generator().manual_seed(2))
    image, (height, width) = view[0].double(), view.shape[2:]
    cells = torch.zeros(height // 8, width // 8, 9, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            above, below, left, right = max(y - 1, 0), min(y + 1, height - 1), max(x - 1, 0), min(x + 1, width - 1)
            slopes = [(float(c[y, right] - c[y, left]), float(c[below, x] - c[above, x])) for c in image]
            across, down = max(slopes, key=lambda slope: math.hypot(*slope))
            place = math.degrees(math.atan2(down, across)) % 180 / 20 - 0.5
            share = place - math.floor(place)
            for number, portion in ((math.floor(place), 1 - share), (math.floor(place) + 1, share)):
                cells[y // 8, x // 8, number % 9] += portion * math.hypot(across, down) / 64
    found = simple_features("image", None)["HOG"](view).reshape(4, 9, height // 8 - 1, width // 8 - 1)
    for row in range(height // 8 - 1):
        for column in range(width // 8 - 1):
            block = cells[row : row + 2, column : column + 2].reshape(4, 9)
            block = (block / (block.square().sum() + 1e-4).sqrt()).clamp(max=0.2)
            block = block / (block.square().sum() + 1e-4).sqrt()
            torch.testing.assert_close(found[:, :, row, column].double(), block, atol=1e-5, rtol=1e-4)


def test_frame_differences_know_which_way_time_goes():
    clip = torch.rand(1, 3, 6, 24, 24)
    function = simple_features("video", None)["frame differences"]
    forward, backward = (function(c).reshape(5, 36) for c in (clip, clip.flip(2)))
    torch.testing.assert_close(forward, -backward.flip(0))
    assert function(torch.rand(1, 3, 1, 24, 24)).shape == (1, 36)  # a single frame: no change
    assert function(torch.rand(1, 3, 16, 24, 24)).shape == (1, 8 * 36)
