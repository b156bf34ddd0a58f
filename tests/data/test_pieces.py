"""Views of a batch made piece by piece, so that not all of it lies decoded in memory at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from foundation.counter import Draws
from foundation.data.boundary import arrays_of
from foundation.data.pipeline import Joining, Plan, TrainingPipeline
from foundation.modalities.audio import views as audio
from foundation.modalities.image import views as image
from foundation.modalities.imu import views as imu
from foundation.modalities.paired import views as paired
from foundation.modalities.points import views as points
from foundation.modalities.video import views as video

BATCH = 5
RANDOM = np.random.default_rng(0)


def sample(number: int) -> dict[str, Any]:
    """Every modality at once, of other lengths and sizes in each sample."""
    height, frames, steps = 20 + 3 * number, 20 + number, 300 + 10 * number
    return {
        "__id__": number,
        "__key__": f"s{number}",
        "__shard__": "x.tar",
        "image": torch.from_numpy(RANDOM.integers(0, 256, (3, height, 24), np.uint8)),
        "video": torch.from_numpy(RANDOM.integers(0, 256, (frames, height, 24, 3), np.uint8)).permute(0, 3, 1, 2),
        "video_times": np.arange(frames) / 10,
        "video_end": frames / 10,
        "video_rate": 10.0,
        "audio": torch.from_numpy(RANDOM.standard_normal(20_000 + 900 * number).astype(np.float32)),
        "audio_rate": 16_000,
        "imu": torch.from_numpy(RANDOM.standard_normal((steps, 6)).astype(np.float32)),
        "imu_rate": 100.0,
        "imu_start": 0.0,
        "points": torch.from_numpy(RANDOM.standard_normal((700 + number, 3)).astype(np.float32)),
    }


SMALL = {"global_views": video.ClipConfig(frames=4, size=16), "local_views": video.ClipConfig(frames=2, size=8)}
MAKERS = {
    "image": lambda: image.Config().build(),
    "image on a device": lambda: image.Config().build(device_is_accelerator=True),
    "video": lambda: video.Config(**SMALL).build(),
    "audio": lambda: audio.Config(mixup=0.4).build(),
    "imu": lambda: imu.Config().build(),
    "points": lambda: points.Config().build(),
    "paired": lambda: paired.Config(
        members={"video": video.Config(**SMALL), "imu": imu.Config()}, spans={"global": (0.5, 1.0), "local": (0.2, 0.5)}
    ).build(),
}


@pytest.mark.parametrize("name", MAKERS)
def test_views_made_in_pieces_are_those_made_at_once(name):
    views, samples = MAKERS[name](), [sample(number) for number in range(BATCH)]
    draws = Draws(3, np.arange(BATCH, dtype=np.int64), np.arange(BATCH, dtype=np.int64) * 7)
    whole = views.prepare(samples, draws)
    parts = [
        views.prepare(samples[a:b], replace(draws, epochs=draws.epochs[a:b], ids=draws.ids[a:b]))
        for a, b in ((0, 1), (1, 4), (4, 5))
    ]
    assert isinstance(views, Joining)
    joined = views.join(parts, draws)
    assert type(joined) is type(whole)
    ones, others = list(arrays_of(whole)), list(arrays_of(joined))
    assert len(ones) == len(others) > 2
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(ones, others, strict=True))
    both = zip(views.finish(whole).values(), views.finish(joined).values(), strict=True)
    assert all(torch.equal(a.data, b.data) for a, b in both)


def test_a_batch_over_the_cap_is_decoded_piece_by_piece_and_is_the_same_batch():
    """What lies decoded in memory together is bounded: no sample is decoded before the views of the others are made."""
    alive, most = [], []

    class Held(dict):
        def __del__(self) -> None:
            alive.pop()

    def decode(raw: dict[str, Any]) -> dict[str, Any]:
        alive.append(1)
        most.append(len(alive))
        pixels = torch.from_numpy(np.random.default_rng(raw["__id__"]).integers(0, 256, (3, 100, 100), np.uint8))
        return Held({name: raw[name] for name in raw} | {"image": pixels})

    raws = [{"__id__": n, "__index__": n, "__key__": f"s{n}", "__shard__": "x.tar"} for n in range(12)]
    draws = Draws(0, np.zeros(12, np.int64), np.arange(12, dtype=np.int64))

    def batch(max_bytes: int) -> Any:
        most.clear()
        pipeline = TrainingPipeline(decode, image.Config().build(), max_bytes=max_bytes)
        return pipeline(raws, draws, Plan(0, 0, 12, 12, 0), lambda row, attempt: pytest.fail("no sample is bad"))

    whole, held_whole = batch(1 << 30), max(most)
    pieces, held = batch(60_000), max(most)
    assert held_whole == 12 and held == 2
    assert whole.keys == pieces.keys
    assert all(torch.equal(whole.views[role].data, pieces.views[role].data) for role in whole.views)
