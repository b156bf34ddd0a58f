"""Part segmentation of generated clouds, and its measures by hand."""

from __future__ import annotations

import argparse
import io

import numpy as np
import pytest
import torch

from foundation.data.build import load
from foundation.data.generated import Numbers
from foundation.data.shards import write_shards
from foundation.encoders import vit
from foundation.encoders.positions import PositionConfig
from foundation.modalities.points import tokenizer
from foundation.modalities.points.evaluation import EvaluationConfig
from foundation.probes.dense_prediction import part_segmentation
from foundation.tasks import parts
from tests.tasks.subjects import image_subject, subject


@pytest.fixture(scope="module")
def module():
    return load("part_shapes").module


def asked(train: list[str], test: list[str]):
    config = vit.Config(
        preset=None,
        width=24,
        depth=1,
        heads=2,
        size=(128,),
        tokenizer=tokenizer.Config(stride=8, group_size=8, widths=(8, 16, 16)),
        position=PositionConfig(kind="mlp"),
    )
    return subject(config, "points", EvaluationConfig(size=128), train, test)


def test_points_lie_on_the_part_that_they_are_of(module):
    for kind, names in module.PARTS.items():
        points, own = module.scan(kind, 2000, 0.0, Numbers(3, 1, kind))
        assert len(np.unique(own)) == len(names)
        assert np.abs(points.mean(0)).max() < 1e-5 and np.linalg.norm(points, axis=1).max() == pytest.approx(1)
        again, _ = module.scan(kind, 2000, 0.0, Numbers(3, 1, kind))
        np.testing.assert_array_equal(points, again)
    points, own = module.scan("table", 2000, 0.0, Numbers(0, 0, "table"))
    assert points[own == 0, 2].min() > points[own == 1, 2].mean()  # the top above the legs


def test_parts_are_found(module, tmp_path):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    arguments = parser.parse_args(["--train", "20", "--test", "10", "--points", "128"])
    splits = {name: list(split) for name, split in module.samples(arguments).items()}
    stream = io.BytesIO()
    np.save(stream, np.zeros(9, np.uint8))
    splits["test"].append({**splits["test"][0], "__key__": "odd", "parts.npy": stream.getvalue()})
    splits["test"].append({**splits["test"][0], "__key__": "unknown", "cls": b"9"})
    for name, samples in splits.items():
        write_shards(samples, tmp_path, name)
    model = asked([f"{tmp_path}/train-*.tar"], [f"{tmp_path}/test-*.tar"])
    task = parts.Config(pictures=1).build()
    assert task.refusal(model) is None
    outcome = task.run(model)
    scores = {(score.metric, score.features): score for score in outcome.scores}
    assert outcome.scores[0].metric == "instance mIoU" and outcome.scores[0].n == 10
    assert scores["instance mIoU", "position"].value > 0.45
    assert scores["instance mIoU", "model"].value > 0.4
    assert float(outcome.scores[0].each.mean()) == pytest.approx(outcome.scores[0].value)
    assert outcome.settings["parts"] == list(range(14)) and len(outcome.pictures) == 1
    assert any("2 samples left out" in line for line in outcome.warnings)
    assert "the model looks at image" in task.refusal(image_subject([], []))


def test_iou_of_a_thing_and_its_means():
    truth, found = torch.tensor([0, 0, 1, 1, -1, 1]), torch.tensor([0, 1, 1, 1, 0, 0])
    # Part 0: 1 of 3; part 1: 2 of 4; part 5: neither has it.
    assert part_segmentation.shape_iou(found, truth, (0, 1, 5)) == pytest.approx((1 / 3 + 2 / 4 + 1) / 3)
    assert part_segmentation.means({"a": [0.2, 0.4, 0.6], "b": [1.0]}) == (pytest.approx(0.55), pytest.approx(0.7))


def test_a_head_chooses_among_the_parts_of_the_class():
    logits = torch.tensor([[9.0, 1.0, 2.0], [0.0, 3.0, 2.0]])
    assert part_segmentation.predicted(logits, (2, 1)).tolist() == [2, 1]
