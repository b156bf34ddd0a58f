"""Views of several modalities: the same span of time out of each, on whatever clock and at whatever rate."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foundation.cli import main
from foundation.counter import Draws
from foundation.data.shards import open_shards, write_shards
from foundation.data.stream import build_eval_loader
from foundation.errors import SampleError, UserError
from foundation.modalities.audio import views as audio
from foundation.modalities.audio.decode import Config as AudioDecode
from foundation.modalities.audio.front_end import FrontEndConfig
from foundation.modalities.imu import views as imu
from foundation.modalities.imu.decode import Config as ImuDecode
from foundation.modalities.paired import clock, picture
from foundation.modalities.paired.decode import PairedDecoder
from foundation.modalities.paired.views import Config, for_probe
from foundation.modalities.points import views as points
from foundation.modalities.video import views as video

PLAIN = {"scale": (1.0, 1.0), "jitter": 0.0, "mean": (0.0,) * 6, "std": (1.0,) * 6}
FRAMES = {"size": 8, "blur": (0.0,), "scale": (1.0, 1.0)}


def draws(count: int, epoch: int = 0) -> Draws:
    return Draws(1, np.full(count, epoch, np.int64), np.arange(count, dtype=np.int64))


def timed(seconds: float, video_start: float = 0.0, imu_start: float = 0.0, imu_rate: float = 100.0) -> dict[str, Any]:
    """A sample that shows its own clock: frames as bright as the time since the begin, readings of that time."""
    frames = video_start + np.arange(round(seconds * 10)) / 10
    grey = (255 * (frames - video_start) / seconds).round().astype(np.uint8)
    pixels = np.broadcast_to(grey[:, None, None, None], (len(frames), 3, 8, 8)).copy()
    readings = imu_start + (np.arange(round(seconds * imu_rate)) + 0.5) / imu_rate
    return {
        "__id__": 0,
        "__key__": "k",
        "video": torch.from_numpy(pixels).contiguous(memory_format=torch.channels_last),
        "video_times": frames,
        "video_end": video_start + seconds,
        "video_rate": 10.0,
        "imu": torch.from_numpy(np.repeat(readings[:, None], 6, 1).astype(np.float32)),
        "imu_rate": imu_rate,
        "imu_start": imu_start,
    }


def members(**changes: Any) -> dict[str, Any]:
    clips = video.Config(
        global_views=video.ClipConfig(frames=8, **FRAMES),
        local_views=video.ClipConfig(frames=4, **FRAMES),
        jitter=0.0,
        greyscale=0.0,
        flip=0.0,
        aspect=(1.0, 1.0),
        mean=(0.0,) * 3,
        std=(1 / 255,) * 3,
    )
    return {"video": clips, "imu": imu.Config(**PLAIN)} | changes


def make(config: Config, samples: list[dict[str, Any]], epoch: int = 0) -> dict[str, Any]:
    views = config.build()
    return views.finish(views.prepare(samples, draws(len(samples), epoch)))


def test_both_show_the_same_span_at_their_own_rates():
    samples = [timed(s, imu_rate=r) for s, r in ((10.0, 100.0), (4.0, 37.0), (20.0, 200.0))]
    views = make(Config(members=members()), samples)
    assert {name: tuple(view.data.shape) for name, view in views.items()} == {
        "video.global": (6, 3, 8, 8, 8),
        "video.local": (6, 3, 4, 8, 8),
        "imu.global": (6, 6, 128),
        "imu.local": (6, 6, 64),
    }
    lengths = torch.tensor([10.0, 4.0, 20.0] * 2)
    for role, (low, high) in (("global", (0.5, 1.0)), ("local", (0.2, 0.5))):
        seen, felt = views[f"video.{role}"], views[f"imu.{role}"]
        assert seen.role == f"video.{role}" and seen.modality == "video" and felt.modality == "imu"
        assert torch.allclose(seen.geometry[:, 2, [2, 3]], felt.geometry[:, 0]) and torch.equal(
            seen.sample_ids, felt.sample_ids
        )
        share = felt.geometry[:, 0, 0] / lengths
        assert (share >= low - 1e-6).all() and (share <= high + 1e-6).all()
        # The pixels and the readings themselves tell the same time: frames last 0.1 s and have 255 shades.
        brightness = seen.data.mean((1, 3, 4)) / 255 * lengths[:, None]
        for told, late in ((brightness, 0.15), (felt.data[:, 0], 0.02)):
            places = (torch.arange(told.shape[1]) + 0.5) / told.shape[1]
            error = felt.geometry[:, 0, 1:] + felt.geometry[:, 0, :1] * places - told
            assert error.min() > -0.05 and error.max() < late, role


def test_clocks_that_begin_elsewhere_share_their_overlap():
    samples = [timed(8.0, video_start=0.0, imu_start=-3.0)] * 4
    views = make(Config(members=members(), spans={"global": (1.0, 2.0), "local": (9.0, 9.0)}, unit="seconds"), samples)
    felt = views["imu.global"].geometry[:, 0]
    assert (felt[:, 1] >= 0).all() and (felt.sum(1) <= 5.0 + 1e-5).all() and (felt[:, 0] >= 1).all()
    assert torch.allclose(views["video.local"].geometry[:, 2, 2:], torch.tensor([5.0, 0.0]))  # all there is


def test_recordings_without_a_common_clock_are_laid_end_to_end():
    samples = [timed(8.0) | {"imu_rate": 50.0, "imu_start": 100.0}] * 4  # says 16 s, from 100 s on
    config = Config(members=members(), align="ends")
    views = make(config, samples)
    seen, felt = views["video.global"].geometry[:, 2, 2:], views["imu.global"].geometry[:, 0]
    assert torch.allclose(felt[:, 0], 2 * seen[:, 0]) and torch.allclose(felt[:, 1], 100 + 2 * seen[:, 1], atol=1e-4)
    assert (views["imu.global"].data[:, 0].mean(1) - (seen[:, 1] + seen[:, 0] / 2)).abs().max() < 0.05


def test_sound_follows_and_clouds_of_points_come_along():
    sample = timed(6.0)
    sample |= {"audio": torch.zeros(48000), "audio_rate": 8000, "points": torch.rand(64, 3)}
    sample["audio"][24000:] = 0.5 * torch.sin(torch.arange(24000) * 0.7)  # silent for 3 s, then a tone
    sound = audio.Config(
        front_end=FrontEndConfig(rate=8000, mels=32, window=0.032, hop=0.01, high=4000.0),
        global_views=audio.ViewConfig(frames=100),
        local_views=audio.ViewConfig(count=0),
    )
    cloud = points.Config(
        global_views=points.ViewConfig(count=1, size=16), local_views=points.ViewConfig(count=0), rotation="none"
    )
    config = Config(
        members=members(audio=sound, points=cloud), spans={"global": (1.0, 1.0), "local": (0.5, 0.5)}, unit="seconds"
    )
    views = make(config, [sample] * 12)
    assert views["points.global"].data.shape == (12, 3, 16)
    heard, felt = views["audio.global"], views["imu.global"].geometry[:, 0]
    assert (heard.geometry[:, 0, 2] - felt[:, 1]).abs().max() < 0.03
    loud = heard.data[:, 0].amax(1)  # [R, frames]
    begins = (loud > loud.min() + 0.5 * (loud.max() - loud.min())).float()
    for row in range(24):
        after = (felt[row, 1] + (torch.arange(100) + 0.5) / 100 > 3.0 + 0.03).float()
        assert (begins[row] - after).abs().mean() < 0.08


def test_views_depend_on_the_sample_alone_and_change_with_the_epoch():
    samples = [timed(s) for s in (5.0, 9.0, 13.0)]
    config = Config(members=members())
    views = config.build()
    together = views.finish(views.prepare(samples, draws(3)))
    alone = views.finish(views.prepare(samples[1:2], draws(3).take(np.array([1]))))
    for name, view in alone.items():
        assert torch.equal(view.data, together[name].data[1::3])
    later = make(config, samples, epoch=1)
    assert not torch.allclose(later["imu.global"].geometry, together["imu.global"].geometry)
    copy = pickle.loads(pickle.dumps(views)).prepare(samples, draws(3)).to("cpu")
    assert torch.equal(views.finish(copy)["imu.local"].data, together["imu.local"].data)


def test_pairs_out_of_step_are_bad_samples():
    def decoder(entries: dict[str, Any]) -> Any:
        return lambda raw: entries

    whole = timed(8.0)
    clip = {k: v for k, v in whole.items() if k.startswith("video")}
    readings = {k: v for k, v in whole.items() if k.startswith("imu")}
    raw = {"__key__": "k", "__shard__": "s.tar"}
    assert "imu" in PairedDecoder([decoder(clip), decoder(readings)], 0.1)(raw)
    late = readings | {"imu_start": 2.0}
    with pytest.raises(
        SampleError, match=r"s.tar.*'k'.*conflict: out of step: video 0.00 to 8.00 s, imu 2.00 to 10.00 s"
    ):
        PairedDecoder([decoder(clip), decoder(late)], 0.1)(raw)
    assert PairedDecoder([decoder(clip), decoder(late)], None)(raw)["imu_start"] == 2.0
    assert PairedDecoder([decoder(clip), decoder(late)], 0.3)(raw)
    longer = readings | {"imu": torch.zeros(5000, 6)}  # goes on after the video: no harm
    assert PairedDecoder([decoder(clip), decoder(longer)], 0.1)(raw)


def test_both_decoders_read_the_same_part_of_a_long_recording():
    class Reader:
        takes_draws = True

        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self, raw: Any, draws: Draws | None = None) -> dict[str, Any]:
            return {self.name: None if draws is None else float(draws.uniform("span", 1)[0, 0])}

    both = PairedDecoder([Reader("a"), Reader("b")])
    assert both.takes_draws
    sample = both({"__key__": "k"}, draws(1))
    assert sample["a"] == sample["b"] != None and both({"__key__": "k"})["a"] is None  # noqa: E711


def test_real_clips_and_their_sensors(shared_data):
    shards = open_shards([str(shared_data("rgb_imu_clips") / "train-*.tar")])
    readings = imu.Config(rate=100.0, decode=ImuDecode(acceleration="g"))
    clips = video.Config(
        global_views=video.ClipConfig(size=32, frames=8), local_views=video.ClipConfig(count=2, size=16, frames=4)
    )
    config = Config(members={"imu": readings, "video": clips})
    decoder = config.decode.build()
    samples = [decoder(shards.read(*shards.locate(place))) for place in (0, 5, 12)]
    for sample in samples:
        assert clock.outside(clock.extents(sample)) < 0.05
    views = make(config, samples)
    drawn = picture.together({name: view for name, view in views.items() if name.endswith("global")}, 0)
    assert drawn.shape[1] == 512 and drawn.std() > 10
    evaluation = config.evaluation()
    assert evaluation.modality == "imu" and evaluation.build()(samples).shape == (3, 6, 128)
    assert evaluation.decode.acceleration == "g" and for_probe(evaluation).rate == 100.0
    assert replace(config, evaluate="video").evaluation().modality == "video"


def test_a_run_on_paired_shards_is_exported_and_probed(shared_data, tmp_path: Path) -> None:
    data, run = shared_data("utd_mhad_depth_imu"), tmp_path / "run"
    small = "{prototypes: 32, hidden: 32, bottleneck: 16}"
    words = [f"data.shards=[{data}/train-*.tar]", "train.stop_after=2 steps", "data.workers=0", "train.batch_size=8"]
    words += [f"heads.cls={small}", "encoder.towers.video.depth=1", "encoder.towers.imu.depth=1"]
    assert main(["pretrain", "utd-paired-dino-nano", *words, "--run", str(run)]) == 0
    card = json.loads((run / "export" / "teacher.json").read_text())
    assert card["modality"] == "paired" and card["evaluation"]["modality"] == "imu"
    probe = ["--train", f"{data}/train-*.tar", "--test", f"{data}/test-*.tar", "--limit", "60", "--workers", "0"]
    result = tmp_path / "knn.json"
    assert main(["knn", str(run / "export" / "teacher.safetensors"), *probe, "--k", "3", "--json", str(result)]) == 0
    assert json.loads(result.read_text())["results"][0]["top1"] > 1 / 27


@pytest.mark.parametrize(
    "settings, match",
    [
        ({"members": {"imu": imu.Config()}}, "at least two modalities"),
        ({"members": {"a.b": imu.Config(), "c": video.Config()}}, "leave out the dot"),
        ({"members": {"a": imu.Config(), "b": imu.Config()}}, "each can be there once"),
        ({"members": {"a": imu.Config(), "b": video.Config()}}, "8 local views.*another member 2"),
        ({"members": members(), "spans": {"global": (0.5, 1.0)}}, "no 'local'"),
        ({"members": members(), "spans": {"global": (0.5, 2.0), "local": (0.1, 0.2)}}, "shares up to 1"),
        ({"members": members(), "unit": "frames"}, "share or seconds"),
        ({"members": members(), "align": "never"}, "clock or ends"),
        ({"members": members(), "tolerance": 1.0}, "tolerance is 1"),
        ({"members": members(), "evaluate": "sound"}, "the members are video, imu"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, match):
    with pytest.raises(UserError, match=match):
        Config(**settings)


def test_real_pairs_out_of_step_are_counted_and_the_others_go_on(shared_data, tmp_path: Path) -> None:
    shards = open_shards([str(shared_data("rgb_imu_clips") / "train-*.tar")])
    raws = [dict(shards.read(*shards.locate(index))) for index in range(6)]
    for number, raw in enumerate(raws):
        late = {"imu_start": 0.7} if number % 3 == 1 else {}
        raw["json"] = json.dumps(json.loads(raw["json"]) | late).encode()
    members = [{name: raw[name] for name in ("__key__", "mp4", "npy", "json")} for raw in raws]
    write_shards(members, tmp_path / "shards", "train")
    config = Config(
        members={
            "imu": imu.Config(decode=ImuDecode(acceleration="g")),
            "video": video.Config(local_views=video.ClipConfig(count=2, size=16)),
        }
    )
    view = config.evaluation().build()
    shards = open_shards([str(tmp_path / "shards" / "train-*.tar")])
    (batch,) = build_eval_loader(shards, view, config.decode.build(), 6)
    assert batch.skipped == {"conflict": 2} and batch.data.shape == (4, 6, 128)
    for message, raw in zip(batch.messages, (raws[1], raws[4]), strict=True):
        assert f"{raw['__key__']}: conflict: out of step: imu 0.70 to 2.70 s, video 0.00 to 2.0" in message
    ends = replace(config, align="ends").decode.build()
    (batch,) = build_eval_loader(shards, view, ends, 6)
    assert not batch.skipped and len(batch.keys) == 6


def test_sound_and_pictures_of_one_file_show_one_stretch_of_time(shared_data):
    """A camera's own file: the sound track is the container's."""
    sound = audio.Config(
        front_end=FrontEndConfig(rate=16000, mels=16), global_views=audio.ViewConfig(frames=64, count=1),
        local_views=audio.ViewConfig(count=0), decode=AudioDecode(member="mp4"),
    )  # fmt: skip
    clips = video.Config(
        global_views=video.ClipConfig(count=1, frames=4, **FRAMES), local_views=video.ClipConfig(count=0, **FRAMES)
    )
    config = Config(members={"audio": sound, "video": clips}, spans={"global": (1.0, 1.0)}, unit="seconds")
    shards = open_shards(str(shared_data("video_files") / "gopro-000000.tar"))
    sample = config.decode.build()(shards.read(0, 0))
    maker = config.build()
    views = maker.finish(maker.prepare([sample], draws(1)))
    assert views["audio.global"].data.std() > 0 and views["video.global"].data.std() > 0
    begins = [float(views[name].geometry[0, 0 if name.startswith("audio") else 2, -1]) for name in views]
    assert begins[0] == pytest.approx(begins[1], abs=0.1), "seconds of the file, from where both begin"
