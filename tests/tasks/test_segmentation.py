"""The task on shards: a small untrained encoder on pictures whose labels are plain to see."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from foundation.data.shards import write_shards
from foundation.errors import UserError
from foundation.modalities import label_drawing
from foundation.tasks import segmentation
from tests.tasks.subjects import image_subject


def member(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def picture(number: int, labelled: bool = True) -> dict:
    """A red disc (label 7) on blue ground (3), with a stripe that is not known (255)."""
    random = np.random.default_rng(number)
    rows, columns = np.mgrid[0:48, 0:64]
    disc = (rows - random.uniform(12, 36)) ** 2 + (columns - random.uniform(20, 44)) ** 2 < random.uniform(8, 14) ** 2
    colours = np.where(disc[..., None], (220, 40, 30), (30, 40, 200)) + random.normal(0, 15, (48, 64, 3))
    labels = np.where(disc, 7, 3).astype(np.uint8)
    labels[:3] = 255
    sample = {"__key__": f"p{number:03d}", "jpg": member(colours.clip(0, 255).astype(np.uint8))}
    return {**sample, "seg.png": member(labels)} if labelled else sample


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    out = tmp_path_factory.mktemp("discs")
    write_shards([picture(n) for n in range(24)], out, "train")
    write_shards([*(picture(100 + n) for n in range(9)), picture(200, labelled=False)], out, "test")
    write_shards([picture(n, labelled=False) for n in range(3)], out, "plain")
    return out


def test_the_disc_is_found(shards):
    task = segmentation.Config(pictures=2).build()
    subject = image_subject([f"{shards}/train-*.tar"], [f"{shards}/test-*.tar"])
    assert task.refusal(subject) is None
    outcome = task.run(subject)
    scores = {(score.metric, score.features): score for score in outcome.scores}
    assert outcome.scores[0].metric == "mIoU" and outcome.scores[0].features == "model"
    assert scores["mIoU", "model"].value > 0.75 and scores["mIoU", "raw"].value > 0.75
    assert scores["mIoU", "position"].value < 0.6
    low, high = scores["mIoU", "model"].interval
    assert low <= scores["mIoU", "model"].value <= high
    each = scores["mIoU per image", "model"]
    assert each.each.shape == (9,) and float(each.each.mean()) == pytest.approx(each.value)
    assert each.keys == tuple(f"p{100 + n}" for n in range(9))
    assert 0.6 < scores["pixel accuracy", "model"].chance < scores["pixel accuracy", "model"].value
    assert outcome.settings["classes"] == [3, 7]
    assert any("1 sample left out" in line and "seg.png" in line for line in outcome.warnings)
    assert len(outcome.pictures) == 2
    assert Image.open(io.BytesIO(outcome.pictures[0].content)).height == label_drawing.SIDE
    assert task.run(subject).scores[0].value == scores["mIoU", "model"].value


def test_labels_of_the_test_split_alone_are_said(shards, tmp_path):
    odd = {**picture(0), "seg.png": member(np.full((48, 64), 9, np.uint8))}
    write_shards([picture(1), odd], tmp_path, "test")
    outcome = (
        segmentation.Config(pictures=0)
        .build()
        .run(image_subject([f"{shards}/train-*.tar"], [f"{tmp_path}/test-*.tar"]))
    )
    assert any("labels [9] occur in the test split alone" in line for line in outcome.warnings)


def test_shards_without_label_maps_are_refused(shards):
    task = segmentation.Config().build()
    subject = image_subject([f"{shards}/train-*.tar"], [f"{shards}/plain-*.tar"])
    said = task.refusal(subject)
    assert "a member seg.png or seg.npy" in said and "there: jpg" in said
    with pytest.raises(UserError, match="segmentation: label maps are needed"):
        task.run(subject)
