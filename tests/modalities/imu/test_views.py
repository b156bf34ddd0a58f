"""Views of inertial recordings: what is kept when a sensor is turned, warped, resampled, and what never leaks."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from foundation.counter import Draws
from foundation.errors import UserError
from foundation.modalities.imu import windows
from foundation.modalities.imu.decode import Config as DecodeConfig
from foundation.modalities.imu.signals import mirrored
from foundation.modalities.imu.views import Config, EvaluationConfig, ViewConfig, for_probe

PLAIN = {"scale": (1.0, 1.0), "jitter": 0.0, "mean": (0.0,) * 6, "std": (1.0,) * 6}
FULL = Config(
    stretch=(0.8, 1.25), warp=0.3, rotation="any", degrees=40.0, drop_channel=0.1, drop_sensor=0.3, jitter=0.1
)


def draws(count: int, epoch: int = 0, seed: int = 3) -> Draws:
    return Draws(seed, np.full(count, epoch, np.int64), np.arange(count, dtype=np.int64) * 7 + 1)


def recording(function, seconds: float = 6.0, rate: float = 50.0, start: float = 0.0) -> dict:
    """A sample whose reading at time t is ``function(t)``, [6]; it lies in the middle of its 1 / rate seconds."""
    times = start + (np.arange(round(seconds * rate)) + 0.5) / rate
    values = np.stack([np.broadcast_to(function(t), 6) for t in times])
    return {"__id__": 1, "imu": torch.from_numpy(values.astype(np.float32)), "imu_rate": rate, "imu_start": start}


def noise(count: int) -> list[dict]:
    random = np.random.default_rng(0)
    lengths = random.integers(100, 400, count)
    return [
        {"__id__": 7 * i + 1, "imu": torch.from_numpy(random.normal(size=(n, 6)).astype(np.float32)), "imu_rate": 50.0}
        for i, n in enumerate(lengths)
    ]


def make(config: Config, samples: list[dict], numbers: Draws | None = None) -> dict:
    views = config.build()
    return views.finish(views.prepare(samples, numbers or draws(len(samples))))


def test_views_of_a_sample_depend_on_nothing_but_itself():
    samples = noise(6)
    together = make(FULL, samples)
    assert {name: tuple(view.data.shape) for name, view in together.items()} == {
        "global": (12, 6, 128),
        "local": (12, 6, 64),
    }
    alone = make(FULL, samples[4:5], draws(6).take(np.array([4])))
    for name, view in alone.items():
        assert torch.equal(view.data, together[name].data[4::6])
        assert torch.equal(view.geometry, together[name].geometry[4::6]) and view.sample_ids.tolist() == [29, 29]
    again = make(FULL, samples, draws(6, epoch=1))
    assert not torch.isclose(again["global"].data, together["global"].data).all(2).any(1).all()
    assert not torch.isclose(together["global"].data[:6], together["global"].data[6:]).all(2).any(1).all()
    copy = pickle.loads(pickle.dumps(FULL.build()))
    assert torch.equal(copy.prepare(samples, draws(6)).roles["local"].data, together["local"].data)


@pytest.mark.parametrize("rate", [20.0, 50.0, 62.5, 200.0, 1000.0])
def test_a_motion_looks_the_same_at_whatever_rate_it_was_recorded(rate):
    def sway(t: float) -> np.ndarray:
        return np.sin(2 * np.pi * 3.0 * t + np.arange(6))

    config = Config(stretch=(0.7, 1.4), global_views=ViewConfig(size=128), **PLAIN)
    view = make(config, [recording(sway, rate=rate, start=2.0)] * 8)["global"]
    times = view.geometry[:, 0, 1:] + view.geometry[:, 0, :1] * (torch.arange(128) + 0.5) / 128  # [R, 128]
    wanted = torch.sin(2 * torch.pi * 3.0 * times[:, None].double() + torch.arange(6)[:, None])
    inside = (times > 2.5) & (times < 7.5)
    error = ((view.data - wanted).abs() * inside[:, None]).max()
    assert error < (0.05 if rate < 50 else 0.02)
    assert (view.geometry[:, 0, 1] >= 2.0 - 1e-6).all() and (view.geometry[:, 0].sum(1) <= 8.0 + 1e-6).all()


def test_what_the_new_rate_cannot_hold_is_taken_out_and_not_folded():
    fast = recording(lambda t: np.sin(2 * np.pi * 45.0 * t), rate=200.0)
    view = make(Config(**PLAIN), [fast] * 4)["global"].data
    assert view.abs().max() < 0.03  # picked every fourth, it would be a full wave of 5 Hz
    constant = recording(lambda t: 9.81, rate=333.0)
    assert (
        make(replace(FULL, rotation="none", drop_channel=0.0, drop_sensor=0.0, **PLAIN), [constant] * 9)["local"].data
        - 9.81
    ).abs().max() < 1e-4


def test_readings_of_the_right_rate_are_taken_as_they_are():
    samples = noise(5)
    view = make(Config(**PLAIN), samples)["global"]
    for row in range(10):
        own, first = samples[row % 5]["imu"], view.geometry[row, 0, 1] * 50
        if len(own) >= 128:
            begin = round(float(first))
            assert torch.equal(view.data[row].T, own[begin : begin + 128])


def test_a_turned_sensor_feels_the_same_motion():
    samples = noise(8)
    straight = make(Config(**PLAIN), samples)["global"].data
    for rotation, degrees in (("any", 180.0), ("any", 20.0), ("axis", 30.0)):
        turned = make(Config(rotation=rotation, degrees=degrees, axis="y", **PLAIN), samples)["global"].data
        for triad in (slice(0, 3), slice(3, 6)):
            assert torch.allclose(turned[:, triad].norm(dim=1), straight[:, triad].norm(dim=1), atol=1e-4)
        # Both sensors sit on one board: what they say together does not change either.
        dot = (turned[:, :3] * turned[:, 3:]).sum(1), (straight[:, :3] * straight[:, 3:]).sum(1)
        assert torch.allclose(*dot, atol=1e-3)
        angle = torch.rad2deg(
            torch.acos(torch.nn.functional.cosine_similarity(turned[:, :3], straight[:, :3], dim=1).clamp(-1, 1))
        )
        assert degrees == 180.0 or angle.max() <= degrees + 0.1
        assert angle.mean() > degrees / 6
        if rotation == "axis":
            assert torch.allclose(turned[:, [1, 4]], straight[:, [1, 4]], atol=1e-5)
    for uniforms in np.random.default_rng(0).random((50, 3)):
        matrix = windows.turn("any", 0, 60.0, uniforms)
        assert np.allclose(matrix @ matrix.T, np.eye(3)) and np.isclose(np.linalg.det(matrix), 1.0)
        assert np.rad2deg(np.arccos(np.clip((np.trace(matrix) - 1) / 2, -1, 1))) <= 60.0 + 1e-6


def test_warped_time_goes_forward_and_is_right_at_both_ends():
    for uniforms in np.random.default_rng(1).random((40, 2)):
        path = windows.warped(uniforms, 0.5, 2000)
        speed = np.diff(path) * 2000
        assert (speed > 0.49).all() and (speed < 1.51).all() and speed.max() > 1.4
        assert path[0] < 0.001 and path[-1] > 0.999
    ramp = recording(lambda t: t, seconds=20.0)
    view = make(Config(warp=0.4, **PLAIN), [ramp] * 10)["global"]
    span = view.data[:, 0, -1] - view.data[:, 0, 0]
    assert torch.allclose(span, view.geometry[:, 0, 0] * 127 / 128, atol=0.05)
    assert (view.data[:, 0].diff(dim=1) > 0).all()


def test_silent_channels_are_zero_and_never_all_sensors():
    samples = noise(60)
    some = make(Config(drop_sensor=1.0, drop_channel=0.0), samples)["global"].data
    silent = (some == 0).all(2)
    assert (silent.sum(1) == 3).all() and (silent[:, :3].all(1) | silent[:, 3:].all(1)).all()
    assert 0.3 < silent[:, 0].float().mean() < 0.7
    channels = (make(Config(drop_channel=0.25), samples)["global"].data == 0).all(2).float()
    assert abs(channels.mean() - 0.25) < 0.06 and set(channels.sum(1).tolist()) > {0.0, 1.0, 2.0}


def test_noise_and_scale_are_as_wide_as_stated():
    still = recording(lambda t: np.array([0, 0, 9.80665, 1.5, 0, 0]))
    quiet = make(Config(scale=(0.8, 1.2), jitter=0.0), [still] * 200, draws(200))["global"].data
    factors = quiet[:, [2, 3], 5]
    assert (quiet.std(2) < 1e-6).all() and factors.min() >= 0.8 and factors.max() <= 1.2 and factors.std() > 0.1
    assert torch.corrcoef(factors.T)[0, 1].abs() < 0.15  # one draw for each sensor
    noisy = make(Config(scale=(1.0, 1.0), jitter=0.3), [still] * 200, draws(200))["global"].data.std(2)
    assert noisy.max() < 0.36 and abs(noisy.mean() - 0.15) < 0.02
    assert (noisy.std(1) < 0.1 * 0.3 + 0.02).all()


def test_short_recordings_are_mirrored_or_stretched():
    assert mirrored(np.arange(-3, 8), 4).tolist() == [3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]
    ramp = recording(lambda t: t, seconds=1.0)
    mirror = make(Config(**PLAIN), [ramp] * 4)["global"]
    assert (
        mirror.data.min() >= 0
        and mirror.data.max() <= 1
        and torch.allclose(mirror.geometry[:, 0, 0], torch.tensor(128 / 50))
    )
    assert (mirror.data[:, 0].diff(dim=1) < 0).any(1).all()  # goes back
    stretched = make(Config(short="stretch", **PLAIN), [ramp] * 4)["global"]
    assert (stretched.data[:, 0, 4:-4].diff(dim=1) > 0).all() and torch.allclose(
        stretched.geometry[:, 0], torch.tensor([1.0, 0.0])
    )


def test_spans_are_shares_of_recordings_of_any_length():
    samples = [recording(lambda t: t, seconds=s) for s in (3.0, 6.0, 12.0)]
    config = Config(global_views=ViewConfig(size=64, span=(0.5, 0.75)), **PLAIN)
    view = make(config, samples)["global"]
    shares = view.geometry[:, 0, 0] / torch.tensor([3.0, 6.0, 12.0] * 2)
    assert (shares >= 0.5).all() and (shares <= 0.75).all()
    assert torch.allclose(view.data[:, 0].mean(1), view.geometry[:, 0] @ torch.tensor([0.5, 1.0]), atol=0.05)


def test_spans_can_be_given_by_another_sensor():
    samples = [recording(lambda t: t, seconds=9.0, start=100.0) for _ in range(2)]
    views = Config(**PLAIN).build()
    spans = {
        "global": np.array([[101.0, 2.56], [103.0, 5.12], [102.0, 2.56], [104.0, 1.28]]),
        "local": np.tile([105.0, 1.28], (4, 1)),
    }
    made = views.finish(views.prepare(samples, draws(2), spans))
    for name, view in made.items():
        assert np.allclose(view.geometry[:, 0].numpy(), spans[name][:, ::-1])
        assert torch.allclose(view.data[:, 0].mean(1).double(), torch.from_numpy(spans[name] @ [1, 0.5]), atol=0.02)


def test_probes_see_the_middle_or_all_of_a_recording():
    ramp = recording(lambda t: t, seconds=8.0)
    middle = EvaluationConfig(mean=(0.0,) * 6, std=(1.0,) * 6).build()([ramp, ramp])
    assert middle.shape == (2, 6, 128) and torch.equal(middle[0], middle[1])
    assert abs(float(middle.mean()) - 4.0) < 0.02 and abs(float(middle[0, 0, -1] - middle[0, 0, 0]) - 2.54) < 0.01
    whole = EvaluationConfig(whole=True, size=32, mean=(0.0,) * 6, std=(1.0,) * 6).build()([ramp])
    assert whole.shape == (1, 6, 32) and abs(float(whole[0, 0, -1]) - 7.875) < 0.02
    config = replace(FULL, decode=DecodeConfig(rate=40.0, acceleration="g"), global_views=ViewConfig(span=(0.5, 1.0)))
    evaluation = config.evaluation()
    assert evaluation.whole and evaluation.decode == config.decode and evaluation.size == 128
    (view,) = make(for_probe(evaluation), noise(3)).values()
    assert view.data.shape == (3, 6, 128)


def test_evaluation_survives_its_card():
    from dataclasses import asdict

    from foundation.modalities.parts import evaluation_config

    evaluation = FULL.evaluation()
    assert evaluation_config("imu", asdict(evaluation)) == evaluation


@pytest.mark.parametrize(
    "make_config, match",
    [
        (lambda: Config(rate=0.0), "rate is 0"),
        (lambda: Config(warp=1.0), "warp is 1; it must be at least 0 and below 1"),
        (lambda: Config(mean=(0.0,)), "mean has 1 numbers for the 6 channels"),
        (lambda: Config(std=(0.0,) * 6), "std.0 is 0; it must be from 1e-09"),
        (lambda: Config(global_views=ViewConfig(count=0)), "at least 1 global view"),
        (lambda: ViewConfig(span=(0.0, 2.0)), "span.0 is 0; it must be above 0"),
        (lambda: Config(stretch=(2.0, 1.0)), "stretch"),
        (lambda: Config(degrees=270.0), "degrees is 270"),
        (lambda: Config(drop_sensor=2.0), "drop_sensor is 2"),
        (
            lambda: Config(
                rotation="any", decode=DecodeConfig(channels=("acc_x", "acc_y")), mean=(0.0,) * 2, std=(1.0,) * 2
            ),
            "all three axes of a sensor, decode.channels has 2 channels of acceleration",
        ),
        (lambda: EvaluationConfig(short="zero"), "mirror or stretch"),
    ],
)
def test_settings_that_cannot_work_are_refused(make_config, match):
    with pytest.raises(UserError, match=match):
        make_config()
