"""Views of sound: parity with ATST's augmentations, geometry, independence, and which stretch is heard."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from foundation.counter import Draws
from foundation.errors import UserError
from foundation.modalities.audio import augment
from foundation.modalities.audio.evaluation import EvaluationConfig
from foundation.modalities.audio.front_end import FrontEndConfig
from foundation.modalities.audio.view_config import ResizeConfig, SpecAugmentConfig, ViewConfig
from foundation.modalities.audio.views import Config, for_probe, published
from foundation.modalities.parts import evaluation_config

FRONT = FrontEndConfig(rate=8000, mels=32, window=0.032, hop=0.010, high=4000.0)


def draws(count: int, epoch: int = 0, seed: int = 3) -> Draws:
    return Draws(seed, np.full(count, epoch, np.int64), np.arange(count, dtype=np.int64) * 7 + 1)


def recordings(count: int, seconds=(0.4, 2.0), rates=(8000, 11025, 16000)) -> list[dict]:
    random = np.random.default_rng(0)
    made = []
    for number in range(count):
        rate = int(random.choice(rates))
        wave = torch.from_numpy(random.normal(0, 0.1, int(rate * random.uniform(*seconds))).astype(np.float32))
        made.append({"__id__": number * 7 + 1, "audio": wave, "audio_rate": rate})
    return made


def everything(**changes) -> Config:
    config = Config(
        front_end=FRONT,
        global_views=ViewConfig(count=2, frames=40),
        local_views=ViewConfig(count=2, frames=20, augment=(1.0, 0.5)),
        roll=0.3,
        gain=(-6.0, 6.0),
        equalise=6.0,
        noise=0.5,
        resize=ResizeConfig(),
        spec_augment=SpecAugmentConfig(bands=2, times=1, time_width=0.3),
    )
    return replace(config, **changes)


def made(config: Config, samples: list[dict], numbers: Draws):
    views = config.build()
    return views.finish(views.prepare(samples, numbers))


@pytest.mark.parametrize("alpha", ["0.6", "0.75", "0.95"])
def test_mixup_of_atst(golden, alpha):
    data = golden("10_atst_augment")
    both = torch.from_numpy(np.concatenate([data["input/a"], data["input/b"]]))
    share = torch.tensor([1 - float(alpha), 0.0])
    ours = augment.mix_logarithms(both, torch.tensor([1, 0]), share, 1.0)
    expected = torch.from_numpy(data[f"output/log_mixup_exp/alpha{alpha}"])
    torch.testing.assert_close(ours[:1], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours[1], both[1])  # share 0: nothing added


@pytest.mark.parametrize("number", range(4))
def test_resized_crop_of_atst(golden, number):
    data = golden("10_atst_augment")
    box = torch.from_numpy(data[f"arg/resize_crop{number}/i_j_h_w"])[None]
    canvas = torch.tensor([[0, (math.floor(60 * 1.5) - 60) // 2]])
    ours = augment.resize_crop(torch.from_numpy(data["input/a"]), box, canvas)
    torch.testing.assert_close(ours, torch.from_numpy(data[f"output/resize_crop{number}"]), atol=2e-5, rtol=0)


def test_mixup_in_powers_adds_powers():
    decibels = torch.tensor([[[-10.0]], [[-20.0]]])
    unit = 10 / math.log(10)
    mixed = augment.mix_logarithms(decibels, torch.tensor([1, 0]), torch.tensor([0.5, 0.0]), unit)
    assert mixed[0].item() == pytest.approx(10 * math.log10(0.5 * 0.1 + 0.5 * 0.01), abs=1e-4)


def test_noise_is_normal_keyed_and_relative():
    keys = torch.arange(40)
    numbers = augment.normal(keys, 5000)
    assert abs(float(numbers.mean())) < 0.01 and abs(float(numbers.std()) - 1) < 0.01
    assert abs(float((numbers**4).mean()) - 3) < 0.1
    assert torch.equal(augment.normal(keys[7:8], 5000)[0], numbers[7])
    correlation = torch.corrcoef(numbers[:10]) - torch.eye(10)
    assert correlation.abs().max() < 0.07
    waves = torch.randn(2, 5000) * torch.tensor([[0.1], [0.0]])
    noisy = augment.add_noise(waves, keys[:2], torch.tensor([0.1, 0.1]))
    assert float((noisy - waves)[0].std()) == pytest.approx(0.01, rel=0.1)
    assert torch.equal(noisy[1], waves[1])  # silence stays silent


def test_spec_augment_fills_with_the_mean():
    data = torch.randn(2, 8, 10)
    starts, widths = torch.tensor([[2, 0], [0, 0]]), torch.tensor([[3, 0], [0, 1]])
    filled = augment.fill_bands(data, starts, widths, 1)
    torch.testing.assert_close(filled[0, 2:5], data[0].mean().expand(3, 10))
    torch.testing.assert_close(filled[1, 0], data[1].mean().expand(10))
    assert torch.equal(filled[0, 5:], data[0, 5:]) and torch.equal(filled[1, 1:], data[1, 1:])


def test_rows_are_view_major_and_shapes_as_described():
    config, samples = everything(), recordings(5)
    views = made(config, samples, draws(5))
    assert config.roles == {"global": (2, (1, 32, 40)), "local": (2, (1, 32, 20))}
    for role, (count, shape) in config.roles.items():
        assert views[role].data.shape == (count * 5, *shape) and views[role].geometry.shape == (count * 5, 2, 3)
        assert views[role].sample_ids.tolist() == [1, 8, 15, 22, 29] * count
        assert torch.isfinite(views[role].data).all()


def test_a_sample_has_the_same_views_in_any_company():
    config, samples, numbers = everything(), recordings(5), draws(5)
    whole = made(config, samples, numbers)
    for row in (0, 3):
        alone = made(config, samples[row : row + 1], numbers.take(np.array([row])))
        for role, view in whole.items():
            torch.testing.assert_close(view.data[row::5], alone[role].data, atol=1e-5, rtol=0)
            torch.testing.assert_close(view.geometry[row::5], alone[role].geometry)


def test_views_change_with_epoch_and_view_and_repeat_otherwise():
    config, samples = everything(), recordings(3, seconds=(1.5, 2.0))
    first, again, later = (made(config, samples, draws(3, epoch))["global"].data for epoch in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, later)
    assert not torch.allclose(first[:3], first[3:])


@pytest.mark.parametrize("framing", ["centred", "kaldi"])
def test_the_equaliser_lifts_bands_by_decibels_that_follow_straight_lines(framing):
    high = replace(FRONT, framing=framing, low=20.0, dynamic_range=None, mean=-3.0, std=5.0)
    plain = Config(front_end=high, global_views=ViewConfig(frames=40), local_views=ViewConfig(count=0))
    samples = recordings(3, seconds=(1.5, 2.0), rates=(8000,))
    heard = made(plain, samples, draws(3))["global"].data
    lifted = made(replace(plain, equalise=9.0), samples, draws(3))["global"].data
    change = (lifted - heard)[:, 0] * high.std * (10 / math.log(10) if framing == "kaldi" else 1)  # decibels
    torch.testing.assert_close(change, change[:, :, :1].expand_as(change), atol=1e-3, rtol=0)  # the same at all times
    curve = change[:, :, 0]
    assert 2 < curve.abs().max() <= 9.0 and (curve.std(dim=0) > 0.1).all(), "every view has a response of its own"
    bends = curve.diff(dim=1).diff(dim=1).abs() > 1e-3
    assert bends.any(dim=1).all() and bends.sum(dim=1).max() <= 4, "straight but for two knots, each in two differences"


def test_same_segment_hears_the_same_seconds_and_only_one_is_augmented():
    config = replace(published("atst-frame"), front_end=FRONT, global_views=ViewConfig(frames=40, augment=(1.0, 0.0)))
    plain = replace(config, mixup=0.0, resize=None)
    samples = recordings(4, seconds=(1.0, 2.0), rates=(8000,))
    views, untouched = made(config, samples, draws(4))["global"], made(plain, samples, draws(4))["global"]
    torch.testing.assert_close(untouched.data[:4], untouched.data[4:])
    torch.testing.assert_close(views.data[4:], untouched.data[4:])
    assert not torch.allclose(views.data[:4], untouched.data[:4], atol=0.05)
    torch.testing.assert_close(views.geometry[:4, 0], views.geometry[4:, 0])  # the time axis stays in step


def test_mixup_takes_another_sample():
    config = Config(front_end=FRONT, global_views=ViewConfig(frames=40), local_views=ViewConfig(count=0), mixup=0.4)
    prepared = config.build().prepare(recordings(6), draws(6)).roles["global"]
    rows = torch.arange(12)
    assert (prepared.partners != rows).all() and (prepared.partners // 6 == rows // 6).all()
    assert 0 < prepared.shares.max() < 0.4
    alone = config.build().prepare(recordings(1), draws(1)).roles["global"]
    assert (alone.shares == 0).all()


@pytest.mark.parametrize("resize", [None, ResizeConfig()])
def test_geometry_says_when_and_where_in_the_file(resize):
    """Clicks at known seconds appear where the map says; for the bands, tones of known frequency."""
    rate, clicks = 8000, np.arange(0.25, 3.0, 0.25)
    wave = np.zeros(3 * rate, np.float32)
    wave[(clicks * rate).astype(int)] = 1.0
    config = Config(
        front_end=replace(FRONT, window=0.016, dynamic_range=None, mean=-100.0),
        global_views=ViewConfig(count=8, frames=100),
        local_views=ViewConfig(count=0),
        resize=resize,
    )
    sample = {"__id__": 1, "audio": torch.from_numpy(wave), "audio_rate": rate}
    view = made(config, [sample], draws(1))["global"]
    seen = 0
    for data, matrix in zip(view.data[:, 0], view.geometry, strict=True):
        inside = data[:, :].amax(0)
        times = matrix[0, 0] * (torch.arange(100) + 0.5) / 100 + matrix[0, 2]
        for click in clicks:
            nearest = (times - click).abs().argmin()
            if (times[nearest] - click).abs() > 0.01 or not 5 < nearest < 94:
                continue
            window = inside[nearest - 5 : nearest + 6]
            if window.max() < 0.5:  # on the empty part of the canvas
                continue
            assert abs(int(window.argmax()) - 5) <= 2, click
            seen += 1
    assert seen >= 10


def test_geometry_of_bands():
    rate, hertz = 8000, 1000.0
    wave = np.sin(2 * np.pi * hertz * np.arange(2 * rate) / rate).astype(np.float32)
    config = Config(
        front_end=FRONT,
        global_views=ViewConfig(count=8, frames=60),
        local_views=ViewConfig(count=0),
        resize=ResizeConfig(canvas=(1.2, 1.0)),
    )
    sample = {"__id__": 1, "audio": torch.from_numpy(wave), "audio_rate": rate}
    view = made(config, [sample], draws(1))["global"]
    plain = made(replace(config, resize=None), [sample], draws(1))["global"]
    band = float(plain.data[0, 0, :, 30].argmax()) + 0.5
    seen = 0
    for data, matrix in zip(view.data[:, 0], view.geometry, strict=True):
        bands = matrix[1, 1] * (torch.arange(32) + 0.5) / 32 + matrix[1, 2]
        nearest = (bands - band).abs().argmin()
        if (bands[nearest] - band).abs() < float(matrix[1, 1]) / 32:
            assert abs(int(data[:, 30].argmax()) - int(nearest)) <= 1
            seen += 1
    assert seen >= 4


@pytest.mark.parametrize(("short", "silent"), [("silence", True), ("repeat", False)])
def test_short_recordings(short, silent):
    config = Config(front_end=FRONT, global_views=ViewConfig(frames=100), local_views=ViewConfig(count=0), short=short)
    samples = recordings(4, seconds=(0.1, 0.2))
    data = made(config, samples, draws(4))["global"].data
    quiet = (data.amax(2) <= data.amin((1, 2, 3), keepdim=True)[..., 0] + 1e-4).any()
    assert bool(quiet) == silent and torch.isfinite(data).all()


def test_roll_wraps_around():
    wave = torch.arange(8000, dtype=torch.float32)
    config = Config(
        front_end=FRONT, global_views=ViewConfig(count=8, frames=80), local_views=ViewConfig(count=0), roll=1.0
    )
    prepared = config.build().prepare([{"__id__": 1, "audio": wave, "audio_rate": 8000}], draws(1)).roles["global"]
    wrapped = 0
    for row in prepared.waveforms:
        steps = row.diff()
        assert ((steps == 1) | (steps == -7999)).all()
        wrapped += bool((steps < 0).any())
    assert wrapped >= 4


def test_evaluation_hears_the_middle():
    config = everything().evaluation()
    assert config == EvaluationConfig(front_end=FRONT, frames=40)
    evaluate = config.build()
    wave = torch.zeros(16000)
    wave[8000] = 1.0
    data = evaluate([{"audio": wave, "audio_rate": 8000}, {"audio": wave[:1000], "audio_rate": 8000}])
    assert data.shape == (2, 1, 32, 40) and abs(int(data[0, 0].amax(0).argmax()) - 20) <= 2
    front_end = {"rate": 8000, "mels": 32, "window": 0.032, "hop": 0.010, "high": 4000.0}
    card = {"front_end": front_end, "frames": 40, "decode": {"channels": "mean", "max_seconds": 1800.0}}
    assert evaluation_config("audio", card) == config
    view = for_probe(config).build()
    assert view.describe() == {"global": (1, (1, 32, 40))}


def test_published_recipes():
    asit, clip, frame = (published(name) for name in ("asit", "atst-clip", "atst-frame"))
    assert asit.roles == {"global": (2, (1, 128, 592))} and asit.roll == 0.5
    assert clip.roles == {"global": (2, (1, 64, 600))} and clip.mixup == 0.4 and clip.resize == ResizeConfig()
    assert frame.roles == {"global": (2, (1, 64, 1000))} and frame.same_segment
    assert frame.resize is not None and frame.resize.time == (1.0, 1.0)
    with pytest.raises(UserError, match="there are asit, atst-clip and atst-frame"):
        published("beats")


def test_prepared_travels_and_config_pickles():
    config, samples = everything(), recordings(2)
    views = config.build()
    prepared = pickle.loads(pickle.dumps(views.prepare(samples, draws(2))))
    again = pickle.loads(pickle.dumps(views)).finish(prepared.to("cpu"))
    torch.testing.assert_close(again["global"].data, views.finish(views.prepare(samples, draws(2)))["global"].data)
    with pytest.raises(ValueError, match="random numbers for 3"):
        views.prepare(samples, draws(3))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Config(roll=1.5), "roll is 1.5; it must be from 0 to 1"),
        (lambda: Config(mixup=1.0), "below 1"),
        (lambda: Config(equalise=-1.0), "equalise"),
        (lambda: Config(gain=(3.0, -3.0)), "the smallest first"),
        (lambda: Config(short="loop"), "silence or repeat"),  # type: ignore[arg-type]
        (lambda: Config(global_views=ViewConfig(count=0)), "at least 1 global view"),
        (lambda: ViewConfig(frames=0), "frames is 0; it must be from 1"),
        (lambda: ViewConfig(count=3, augment=(1.0, 0.0)), "one per view"),
        (lambda: ResizeConfig(canvas=(0.5, 1.0)), "canvas.0 is 0.5; it must be from 1"),
        (lambda: ResizeConfig(time=(1.5, 0.5)), "the smallest first"),
        (lambda: SpecAugmentConfig(bands=-1), "bands is -1; it must be from 0"),
        (lambda: EvaluationConfig(frames=0), "frames is 0; it must be from 1"),
    ],
)
def test_impossible_settings_are_named(make, words):
    with pytest.raises(UserError, match=words):
        make()
