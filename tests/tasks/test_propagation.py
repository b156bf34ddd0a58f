"""Video label propagation by models of pictures and of clips, and matching of views."""

from __future__ import annotations

import argparse
import io

import numpy as np
import pytest
import torch
from PIL import Image

from foundation.data.build import load
from foundation.data.shards import open_shards, write_shards
from foundation.encoders import vit
from foundation.errors import UserError
from foundation.modalities.video import tokenizer
from foundation.modalities.video.evaluation import EvaluationConfig
from foundation.tasks import correspondence, propagation
from tests.tasks.subjects import image_subject, subject


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    out, module = tmp_path_factory.mktemp("films"), load("moving_objects").module
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    words = ["--train", "1", "--test", "4", "--size", "48", "--frames", "8"]
    for split, samples in module.samples(parser.parse_args(words)).items():
        write_shards(samples, out, split)
    return out


def array(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def ball(odd: bool = False) -> dict:
    """A yellow ball that crosses a dark picture in 8 frames."""
    rows, columns = np.mgrid[0:48, 0:48]
    masks = np.stack([(rows - 24) ** 2 + (columns - 10 - 4 * time) ** 2 < 90 for time in range(8)]).astype(np.uint8)
    video = np.where(masks[..., None] > 0, np.uint8([240, 220, 20]), np.uint8([20, 30, 60])).astype(np.uint8)
    return {
        "__key__": "odd" if odd else "ball",
        "video.npy": array(video),
        "masks.npy": array(masks[: 7 if odd else 8]),
    }


def of_clips(patterns: list[str]):
    parts = tokenizer.Config(tubelet=2, patch_size=8)
    config = vit.Config(preset=None, width=48, depth=2, heads=4, size=(8, 48, 48), tokenizer=parts)
    return subject(config, "video", EvaluationConfig(size=48, crop_fraction=1.0, frames=8), [], patterns)


@pytest.mark.parametrize("kind", ["pictures", "clips"])
def test_a_ball_is_followed(tmp_path, kind):
    write_shards([ball(), ball(odd=True)], tmp_path, "test")
    patterns = [f"{tmp_path}/test-*.tar"]
    asked = image_subject([], patterns) if kind == "pictures" else of_clips(patterns)
    task = propagation.Config(pictures=1).build()
    assert task.refusal(asked) is None
    outcome = task.run(asked)
    scores = {(score.metric, score.features): score for score in outcome.scores}
    assert outcome.scores[0].metric == "J&F" and outcome.scores[0].features == "model"
    assert scores["J", "raw"].value > 0.7 > 0.5 > scores["J", "first mask throughout"].value
    assert scores["J&F", "raw"].value == pytest.approx((scores["J", "raw"].value + scores["F", "raw"].value) / 2)
    assert scores["J", "model"].value > scores["J", "first mask throughout"].value
    assert scores["J", "model"].keys == ("ball/1",) and len(outcome.pictures) == 1
    assert any("masks of 7 frames beside a video of 8" in line for line in outcome.warnings)


def test_generated_films_have_masks_that_fit(films):
    shards = open_shards([f"{films}/test-*.tar"])
    for number in range(4):
        raw = shards.read(*shards.locate(number))
        video, masks = (np.load(io.BytesIO(raw[name])) for name in ("video.npy", "masks.npy"))
        assert video.shape == (8, 48, 48, 3) and masks.shape == (8, 48, 48) and 1 in masks[0]
        assert (masks[1:] != masks[:-1]).any()
    outcome = propagation.Config(pictures=0).build().run(image_subject([], [f"{films}/test-*.tar"]))
    scores = {(score.metric, score.features): score.value for score in outcome.scores}
    assert scores["J", "raw"] > scores["J", "first mask throughout"]


def test_what_cannot_be_asked_is_refused(tmp_path):
    write_shards([{"__key__": "a", "video.npy": ball()["video.npy"]}], tmp_path, "test")
    patterns = [f"{tmp_path}/test-*.tar"]
    assert "a member masks.npy" in propagation.Config().build().refusal(of_clips(patterns))
    with pytest.raises(UserError, match="correspondence: two views of a picture are compared"):
        correspondence.Config().build().run(of_clips(patterns))


def test_patches_that_know_their_place_in_the_picture_are_matched(tmp_path):
    """Smooth colours that differ everywhere: a patch's mean colour says where it is."""
    rows, columns = np.mgrid[0:48, 0:48] / 48
    pixels = np.stack([255 * rows, 255 * columns, 127 + 0 * rows], -1).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    write_shards([{"__key__": f"p{n}", "png": stream.getvalue()} for n in range(12)], tmp_path, "test")
    asked = image_subject([], [f"{tmp_path}/test-*.tar"])
    outcome = correspondence.Config(threshold=0.15, pictures=1).build().run(asked)
    scores = {score.features: score for score in outcome.scores}
    assert outcome.scores[0].metric == "PCK@0.15" and len(outcome.pictures) == 1
    assert scores["model"].value > 3 * scores["model"].chance and scores["model"].n == 12
    assert scores["model"].value > scores["position"].value
    again = correspondence.Config(threshold=0.15, pictures=0).build().run(asked).scores[0]
    assert torch.equal(again.each, scores["model"].each)
