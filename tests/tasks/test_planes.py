"""Depth, discovery and correspondence on generated scenes whose labels are plain to see."""

from __future__ import annotations

import argparse
import io
import json

import numpy as np
import pytest
from PIL import Image

from foundation.data.build import load
from foundation.data.shards import write_shards
from foundation.errors import UserError
from foundation.tasks import depth, discovery
from tests.tasks.subjects import image_subject


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    out, module = tmp_path_factory.mktemp("scenes"), load("scenes").module
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    for split, samples in module.samples(parser.parse_args(["--train", "40", "--test", "16", "--size", "48"])).items():
        write_shards(samples, out, split)
    return out


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def slope(number: int) -> dict:
    """A picture whose brightness is its depth, in millimetres; a stripe is unknown."""
    random = np.random.default_rng(number)
    rows, columns = np.mgrid[0:48, 0:48] / 48
    share = (rows * random.uniform(-1, 1) + columns * random.uniform(-1, 1)).clip(-1, 1) / 2 + 0.5
    millimetres = (1000 + 4000 * share).astype(np.uint16)
    millimetres[:4] = 0
    grey = np.repeat((255 * share).astype(np.uint8)[..., None], 3, axis=2)
    return {"__key__": f"s{number:03d}", "png": png(grey), "depth.png": png(millimetres)}


def test_depth_that_is_brightness_is_found(tmp_path):
    write_shards([slope(n) for n in range(20)], tmp_path, "train")
    write_shards([slope(100 + n) for n in range(8)], tmp_path, "test")
    subject = image_subject([f"{tmp_path}/train-*.tar"], [f"{tmp_path}/test-*.tar"])
    outcome = depth.Config(unit=0.001, pictures=1, bins=12).build().run(subject)
    scores = {(score.metric, score.features): score for score in outcome.scores}
    assert outcome.scores[0].metric == "RMSE" and outcome.scores[0].better == "less"
    assert scores["RMSE", "raw"].value < 0.3 < 0.6 < scores["RMSE", "raw"].chance < 2.0  # metres
    assert scores["RMSE", "model"].value < 0.6 * scores["RMSE", "position"].value
    assert scores["delta1", "raw"].value > 0.95 and scores["abs rel", "raw"].value < 0.1
    for score in outcome.scores:
        assert score.each.shape == (8,) and float(score.each.mean()) == pytest.approx(score.value, rel=1e-5)
    assert outcome.settings["range"] == pytest.approx([1.0, 5.0], abs=0.3)
    assert len(outcome.pictures) == 1


def test_depth_without_depths_is_refused(tmp_path):
    sample = slope(0)
    write_shards([{"__key__": "a", "png": sample["png"]}], tmp_path, "train")
    subject = image_subject([f"{tmp_path}/train-*.tar"], [f"{tmp_path}/train-*.tar"])
    assert "a member depth.npy or depth.png" in depth.Config().build().refusal(subject)
    assert "a member z.npy" in depth.Config(member="z.npy").build().refusal(subject)
    with pytest.raises(UserError, match="discovery: boxes of objects are needed"):
        discovery.Config().build().run(subject)


def test_depth_of_scenes(scenes):
    subject = image_subject([f"{scenes}/train-*.tar"], [f"{scenes}/test-*.tar"])
    scores = depth.Config(pictures=0, bins=8).build().run(subject).scores
    assert scores[0].value < scores[0].chance and scores[0].n == 16


def square(number: int, boxes: object | None = None) -> dict:
    """A bright square on dark ground in a picture of 64 x 64."""
    random = np.random.default_rng(number)
    side = int(random.integers(20, 30))
    left, top = (int(at) for at in random.integers(4, 30, 2))
    pixels = random.normal(40, 3, (64, 64, 3))
    pixels[top : top + side, left : left + side] = (230, 200, 30)
    labels = np.zeros((64, 64), np.uint8)
    labels[top : top + side, left : left + side] = 1
    box = [left, top, left + side, top + side]
    facts = {"boxes": [[at / 64 for at in box]], "height": 1, "width": 1} if boxes is None else boxes
    picture = png(pixels.clip(0, 255).astype(np.uint8))
    return {"__key__": f"q{number}", "png": picture, "boxes.json": json.dumps(facts).encode(), "seg.png": png(labels)}


@pytest.mark.parametrize("member", ["boxes.json", "seg.png"])
def test_the_square_is_discovered(tmp_path, member):
    nothing = square(50, {"boxes": []}) | {"seg.png": png(np.zeros((64, 64), np.uint8))}
    broken = square(51, {"boxes": [[1, 2]]}) | {"seg.png": b"nothing"}
    write_shards([*(square(n) for n in range(10)), nothing, broken], tmp_path, "test")
    subject = image_subject([], [f"{tmp_path}/test-*.tar"], side=64)
    outcome = discovery.Config(member=member, pictures=1).build().run(subject)
    scores = {score.features: score for score in outcome.scores}
    assert outcome.scores[0].features == "model" and scores["raw"].value == 1.0
    assert scores["model"].value >= 0.9 > 0.1 >= scores["whole picture"].value
    assert scores["model"].n == 10 and scores["model"].each.mean() == pytest.approx(scores["model"].value)
    assert any("without an object" in line for line in outcome.warnings) and any(
        "left out" in line for line in outcome.warnings
    )
    assert len(outcome.pictures) == 1
