"""Simple features: what each of them keeps and what it does not see."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from foundation.probes.features import FeatureSet
from foundation.probes.road import evaluation_config, room, simple_features

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
    evaluation = room("paired", "views").EvaluationConfig(modality="imu")
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
    for name, function in simple_features("points", None).items():
        torch.testing.assert_close(function(turn @ clouds), function(clouds), atol=2e-3, rtol=1e-3, msg=name)


def test_a_turned_sensor_keeps_the_features_of_its_lengths():
    view = torch.randn(1, 6, 64)
    turn, _ = torch.linalg.qr(torch.randn(3, 3))
    turned = torch.cat([turn @ view[:, :3], turn @ view[:, 3:]], dim=1)
    function = simple_features("imu", None)["statistics of each axis"]
    before, after = function(view).reshape(7, 8), function(turned).reshape(7, 8)
    torch.testing.assert_close(before[:, 6:], after[:, 6:])
    assert not torch.allclose(before[:, :6], after[:, :6])


def test_a_clip_is_known_by_where_it_changes():
    clip = torch.zeros(1, 3, 4, 24, 24)
    clip[:, :, 1::2, :12] = 1.0  # the upper half blinks
    changes = simple_features("video", None)["changes between frames"](clip)[0]
    assert torch.equal(changes[:144].reshape(12, 12)[:6], torch.ones(6, 12))
    assert not changes[:144].reshape(12, 12)[6:].any()
    assert torch.equal(changes[144:], torch.full((3,), 0.5))


def test_frame_differences_know_which_way_time_goes():
    clip = torch.rand(1, 3, 6, 24, 24)
    function = simple_features("video", None)["frame differences"]
    forward, backward = (function(c).reshape(5, 36) for c in (clip, clip.flip(2)))
    torch.testing.assert_close(forward, -backward.flip(0))
    assert function(torch.rand(1, 3, 1, 24, 24)).shape == (1, 36)  # a single frame: no change
    assert function(torch.rand(1, 3, 16, 24, 24)).shape == (1, 8 * 36)


def test_standardised_by_another_set():
    def features(values):
        return FeatureSet(
            (torch.tensor(values),),
            torch.tensor(values),
            torch.zeros(len(values), dtype=torch.long),
            ("a",) * len(values),
        )

    train, test = features([[0.0, 5.0], [4.0, 5.0]]), features([[2.0, 6.0], [8.0, 5.0]])
    assert test.standardised(train).cls[0].tolist() == [[0.0, 1.0], [3.0, 0.0]]  # what never changes is not divided
    assert train.standardised(train).patches.tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert dataclasses.asdict(test.standardised(train))["keys"] == test.keys
