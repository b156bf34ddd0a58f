"""Clips: what they show, where they lie in time and space, independence of neighbours, the probes' clip."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from foundation import config as reader
from foundation.counter import Draws
from foundation.errors import UserError
from foundation.modalities.video import clips, decode
from foundation.modalities.video.views import ClipConfig, Config, EvaluationConfig, for_probe
from tests.modalities.video.conftest import draws

PLAIN = {"jitter": 0.0, "greyscale": 0.0, "mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}
ROLES = ("global", "local")


def small(**changes: Any) -> Config:
    config = Config(
        global_views=ClipConfig(count=2, size=24, frames=6, rates=(5.0, 10.0), blur=(0.5, 0.0), solarise=(0.0, 0.3)),
        local_views=ClipConfig(count=3, size=16, scale=(0.05, 0.4), frames=4, rates=(20.0,), blur=(0.0,)),
        blur_sigma=(0.1, 1.0),
    )
    return replace(config, **changes)


def coordinates_video(number: int, frames: int = 40, height: int = 60, width: int = 80, rate: float = 20.0) -> dict:
    """Red says the column, green the row, blue the frame."""
    pixels = np.empty((frames, height, width, 3), np.uint8)
    pixels[..., 0] = np.arange(width)[None, None] * 3
    pixels[..., 1] = np.arange(height)[None, :, None] * 4
    pixels[..., 2] = np.arange(frames)[:, None, None] * 6
    video = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    times = np.arange(frames) / rate
    return {"__id__": number, "video": video, "video_times": times, "video_end": frames / rate}


def random_videos(*ids: int) -> list[dict]:
    made = []
    for number in ids:
        random = np.random.default_rng(number)
        frames, height, width = int(random.integers(8, 30)), int(random.integers(40, 70)), int(random.integers(40, 70))
        pixels = torch.from_numpy(random.integers(0, 256, (frames, height, width, 3), np.uint8))
        times = np.cumsum(random.uniform(0.02, 0.1, frames))  # a variable frame rate
        made.append(
            {"__id__": number, "video": pixels.permute(0, 3, 1, 2), "video_times": times, "video_end": times[-1] + 0.05}
        )
    return made


def test_shapes_roles_and_types():
    config = small()
    assert config.roles == {"global": (2, (3, 6, 24, 24)), "local": (3, (3, 4, 16, 16))} and config.modality == "video"
    maker = config.build()
    views = maker.finish(maker.prepare(random_videos(1, 2, 3), draws(1, 2, 3)))
    assert tuple(views["global"].data.shape) == (6, 3, 6, 24, 24) and views["global"].data.dtype == torch.float32
    assert tuple(views["local"].data.shape) == (9, 3, 4, 16, 16) and views["local"].count == 3
    assert views["local"].sample_ids.tolist() == [1, 2, 3] * 3 and tuple(views["global"].geometry.shape) == (6, 3, 4)
    assert not maker.on_device and all(view.modality == "video" for view in views.values())
    assert pickle.loads(pickle.dumps(maker)).describe() == maker.describe()


def test_a_view_depends_on_its_sample_alone():
    maker = small().build()
    together = maker.finish(maker.prepare(random_videos(4, 5, 6), draws(4, 5, 6)))
    alone = maker.finish(maker.prepare(random_videos(5), draws(5)))
    again = maker.finish(maker.prepare(random_videos(5), draws(5, epoch=1)))
    for role in ROLES:
        rows = together[role].data.unflatten(0, (together[role].count, 3))[:, 1]
        assert (rows == alone[role].data).all()
        assert not torch.equal(again[role].data, alone[role].data)


def test_geometry_leads_every_pixel_back_to_its_place_and_moment():
    """Colours of a video that tells its own coordinates agree with the affine map of the view."""
    maker = small(**PLAIN, global_views=ClipConfig(count=2, size=24, frames=6, rates=(5.0, 10.0), blur=(0.0,))).build()
    samples = [coordinates_video(number) for number in range(8)]
    view = maker.finish(maker.prepare(samples, draws(*range(8))))["global"]
    lattice = torch.stack(torch.meshgrid(*[(torch.arange(n) + 0.5) / n for n in (6, 24, 24)], indexing="ij"), -1)
    points = lattice.flip(-1).reshape(-1, 3)  # x, y, time in [0, 1]
    flipped = 0
    for data, matrix in zip(view.data, view.geometry, strict=True):
        source = points @ matrix[:, :3].T + matrix[:, 3]  # pixels, pixels, seconds
        red, green, blue = data.flatten(1)
        assert (red - 3 * (source[:, 0] - 0.5)).abs().max() < 5
        assert (green - 4 * (source[:, 1] - 0.5)).abs().max() < 6
        frame = (source[:, 2] * 20 + 1e-3).floor()
        assert (blue - 6 * frame).abs().max() < 1
        flipped += bool(matrix[0, 0] < 0)
    assert 0 < flipped < 16


def test_crops_are_the_same_in_all_frames():
    still = coordinates_video(3)
    still["video"] = still["video"][:1].expand(40, -1, -1, -1)
    maker = small().build()
    for view in maker.finish(maker.prepare([still], draws(3))).values():
        assert (view.data == view.data[:, :, :1]).all()  # crop, flip, colours, blur and the rest


def test_clips_have_the_speeds_asked_for_and_stay_in_the_video():
    config = small(global_views=ClipConfig(count=2, size=8, frames=4, rates=(2.5, 5.0, 40.0), blur=(0.0,)))
    maker = config.build()
    n = 300
    begins, ends = np.full(n, 0.5), np.full(n, 2.5)
    placed = maker._draw_spans("global", config.global_views, draws(*range(n)), begins, ends)
    lengths, counts = np.unique(placed[:, 1].round(9), return_counts=True)
    np.testing.assert_allclose(lengths, [0.1, 0.8, 1.6])
    assert (np.abs(counts / (2 * n) - 1 / 3) < 0.09).all()
    assert (placed[:, 0] >= 0.5).all() and (placed.sum(1) <= 2.5 + 1e-9).all()
    free = (placed[:, 0] - 0.5) / (2.0 - placed[:, 1])
    assert abs(free.mean() - 0.5) < 0.05 and free.min() < 0.02 and free.max() > 0.98
    short = maker._draw_spans("global", config.global_views, draws(*range(n)), begins, begins + 0.3)
    np.testing.assert_allclose(np.unique(short[:, 1].round(9)), [0.1, 0.3])  # the whole of a video that is too short
    share = replace(config.global_views, span=(0.25, 0.75))
    placed = maker._draw_spans("global", share, draws(*range(n)), begins, ends)
    assert 0.5 <= placed[:, 1].min() < 0.52 and 1.48 < placed[:, 1].max() <= 1.5


def test_frames_of_a_span():
    np.testing.assert_allclose(clips.span_times(2.0, 1.0, 4), [2.125, 2.375, 2.625, 2.875])
    sample = coordinates_video(0, frames=4, rate=2.0)
    shown = clips.sample_frames(sample, clips.span_times(0.0, 2.0, 8))
    assert (shown[:, 2, 0, 0] // 6).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]  # repeated where the video has too few
    assert (clips.sample_frames(sample, np.array([9.0]))[0, 2, 0, 0] // 6) == 3


def test_decoded_files_go_through(mp4):
    from tests.modalities.video.conftest import numbers, raw

    sample = decode.decode(raw(mp4=mp4))
    maker = small(**PLAIN, flip=0.0, local_views=ClipConfig(count=0, blur=(0.0,))).build()
    view = maker.finish(maker.prepare([sample], draws(5)))["global"]
    for clip, matrix in zip(view.data, view.geometry, strict=True):
        begin, length = float(matrix[2, 3]), float(matrix[2, 2])
        wanted = [int((begin + length * (i + 0.5) / 6) * 10 + 1e-4) for i in range(6)]
        assert numbers(clip.transpose(0, 1)) == wanted


def test_the_probes_clip():
    sample = coordinates_video(0)
    plain = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}
    whole = EvaluationConfig(size=32, frames=5, **plain).build()([sample, sample])
    assert tuple(whole.shape) == (2, 3, 5, 32, 32)
    assert (whole[0, 2, :, 0, 0] / 6).round(decimals=3).tolist() == [
        4.0,
        12.0,
        20.0,
        28.0,
        36.0,
    ]  # middles of fifths of 40 frames
    middle = EvaluationConfig(size=32, frames=4, seconds=0.4, **plain).build()([sample])
    assert (middle[0, 2, :, 0, 0] / 6).round(decimals=3).tolist() == [17.0, 19.0, 21.0, 23.0]
    made = small(evaluation_seconds=1.5, decode=decode.Config(max_frames=32)).evaluation()
    assert (made.size, made.frames, made.seconds, made.decode.max_frames) == (24, 6, 1.5, 32)
    views = for_probe(made).build()
    assert views.describe() == {"global": (1, (3, 6, 24, 24))} and views.config.decode == made.decode


def test_a_card_keeps_the_decoders_settings():
    made = small(decode=decode.Config(rate=12.5)).evaluation()
    again = reader.from_plain(EvaluationConfig, reader.to_plain(made), name="card")
    assert again == made and again.decode.rate == 12.5


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ClipConfig(frames=0), "frames is 0"),
        (lambda: ClipConfig(rates=()), "rates is \\[\\]; it must be a list of 1 to 64"),
        (lambda: ClipConfig(rates=(8.0, 0.0)), "rates.1 is 0; it must be above 0"),
        (lambda: ClipConfig(span=(0.5, 1.5)), "span.1 is 1.5; it must be above 0 and at most 1"),
        (lambda: Config(placement="device"), "crops of videos are made in the workers"),
        (lambda: EvaluationConfig(frames=0), "evaluation.frames is 0"),
        (lambda: EvaluationConfig(seconds=-1.0), "evaluation.seconds is -1; .*, or null"),
        (lambda: Config(flip=1.5), "flip is 1.5; it must be from 0 to 1"),
    ],
)
def test_settings_that_cannot_work(make, text):
    with pytest.raises(UserError, match=text):
        make()


def test_draws_and_samples_must_agree():
    with pytest.raises(ValueError, match="2 samples, but random numbers for 1"):
        small().build().prepare(random_videos(1, 2), Draws(0, np.zeros(1, np.int64), np.array([1])))


def test_masked_copies_and_frames_of_the_global_clips():
    config = small(masked_copies=3, frames_every=2, masked_frames=2)
    assert {name: config.roles[name] for name in ("masked", "frame", "masked_frame")} == {
        "masked": (6, (3, 6, 24, 24)),
        "frame": (6, (3, 24, 24)),
        "masked_frame": (12, (3, 24, 24)),
    }
    maker = config.build()
    views = maker.finish(maker.prepare([coordinates_video(n) for n in (1, 2)], draws(1, 2)))
    whole, masked, frame, hidden = (views[name] for name in ("global", "masked", "frame", "masked_frame"))
    for name, view in views.items():
        assert (view.count, tuple(view.data.shape[1:])) == config.roles[name]
        assert len(view.data) == len(view.geometry) == len(view.sample_ids) == 2 * view.count
        assert view.sample_ids.view(view.count, 2).tolist() == [[1, 2]] * view.count  # view-major
    assert frame.modality == "image" and masked.modality == "video"
    for copy in range(3):
        assert torch.equal(masked.data[4 * copy : 4 * copy + 4], whole.data)
    for clip in range(2):
        for moment in range(3):
            for sample in range(2):
                row = (clip * 3 + moment) * 2 + sample
                assert torch.equal(frame.data[row], whole.data[clip * 2 + sample, :, 2 * moment])
                assert torch.equal(frame.geometry[row], whole.geometry[clip * 2 + sample][:2][:, [0, 1, 3]])
    assert torch.equal(hidden.data.view(2, 12, 3, 24, 24)[1], frame.data)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"masked_frames": 2}, "needs views.frames_every"),
        ({"frames_every": 7}, "between 1 and the 6 frames"),
        ({"masked_copies": -1}, "masked_copies is -1; it must be from 0"),
    ],
)
def test_copies_that_cannot_be(changes, text):
    with pytest.raises(UserError, match=text):
        small(**changes)


def test_the_accelerators_half_gives_the_same_views():
    config = small(masked_copies=1, frames_every=2)
    samples, numbers = random_videos(7, 8, 9), draws(7, 8, 9)
    here, there = config.build(), config.build(device_is_accelerator=True)
    sent = there.prepare(samples, numbers)
    assert not there.on_device and all(role.pixels is not None for role in sent.roles.values())
    expected, found = here.finish(here.prepare(samples, numbers)), there.finish(sent.to("cpu"))
    for name, view in expected.items():
        torch.testing.assert_close(found[name].data, view.data, atol=2e-4, rtol=1e-4)
        assert torch.equal(found[name].geometry, view.geometry)
