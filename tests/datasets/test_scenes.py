"""Scenes and moving objects: labels agree with one another and with the picture."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from foundation.data.build import load
from foundation.data.generated import Numbers
from foundation.errors import UserError


def drawn(name: str, *words: str) -> dict[str, list[dict]]:
    module = load(name).module
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    arguments = parser.parse_args(["--train", "6", "--test", "5", "--size", "48", *words])
    return {split: list(samples) for split, samples in module.samples(arguments).items()}


def arrays(sample: dict) -> dict[str, np.ndarray]:
    return {name: np.load(io.BytesIO(data)) for name, data in sample.items() if name.endswith("npy")}


@pytest.mark.parametrize("name", ["scenes", "moving_objects"])
def test_the_seed_says_everything(name):
    words = ["--frames", "4"] if name == "moving_objects" else []
    rows, first = drawn(name, *words), {"scenes": "jpg", "moving_objects": "video.npy"}[name]
    assert rows == drawn(name, *words)
    seen = [sample[first] for split in rows.values() for sample in split]
    seen += [sample[first] for sample in drawn(name, *words, "--seed", "1")["train"]]
    assert len(set(seen)) == 6 + 5 + 6


def test_labels_depths_and_boxes_of_a_scene_agree():
    for sample in drawn("scenes")["test"]:
        labels = np.asarray(Image.open(io.BytesIO(sample["seg.png"])))
        depth, boxes = arrays(sample)["depth.npy"].astype(float), json.loads(sample["boxes.json"])
        assert labels.shape == depth.shape == (48, 48) and (boxes["height"], boxes["width"]) == (48, 48)
        # Nothing lies outside of the boxes; all objects are nearer than the background; the class is the nearest one's.
        inside = np.zeros_like(labels, bool)
        for left, top, right, bottom in boxes["boxes"]:
            part = labels[top:bottom, left:right]
            assert part[0].any() and part[-1].any() and part[:, 0].any() and part[:, -1].any()
            inside[top:bottom, left:right] = True
        assert not labels[~inside].any()
        assert depth[labels > 0].max() < depth[labels == 0].min()
        assert labels[np.unravel_index(depth.argmin(), depth.shape)] == int(sample["cls"]) + 1


def test_the_mask_is_where_the_object_is_painted():
    """Two renderings that differ in the colours of one object alone differ where its mask is, and at its edge."""
    scenes = load("scenes").module
    ground = np.full((64, 64, 3), 0.5)
    for kind in range(len(scenes.KINDS)):
        (thing,) = scenes.things([kind], Numbers(0, kind, "test"))
        one = scenes.render(ground, [thing], 1.0)
        other = scenes.render(ground, [dataclasses.replace(thing, colours=1 - thing.colours)], 1.0)
        differ = (one.pixels != other.pixels).any(-1)
        mask = one.instances == 1
        assert mask.sum() > 60 and (one.labels[mask] == kind + 1).all()
        assert (differ & mask).sum() > 0.95 * mask.sum()
        grown = mask.copy()
        for axis in (0, 1):
            for step in (-1, 1):
                grown |= np.roll(mask, step, axis)
        grown |= np.roll(grown, 1, 0) | np.roll(grown, -1, 0) | np.roll(grown, 1, 1) | np.roll(grown, -1, 1)
        assert not (differ & ~grown).any()


def test_masks_of_a_film_go_with_its_frames():
    for sample in drawn("moving_objects", "--frames", "6")["train"]:
        found = arrays(sample)
        video, masks = found["video.npy"], found["masks.npy"]
        assert video.shape == (6, 48, 48, 3) and masks.shape == (6, 48, 48)
        assert (masks == 1).any((1, 2)).all()  # the nearest object never leaves the picture
        middles = [np.argwhere(mask == 1).mean(0) for mask in masks]
        assert all(np.linalg.norm(b - a) < 8 for a, b in pairwise(middles))


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("scenes", ["--size", "8"], "scenes: --size must lie in 32 to 512"),
        ("moving_objects", ["--frames", "1"], "--frames in 2 to 256"),
    ],
)
def test_options_that_cannot_work(name, words, message):
    with pytest.raises(UserError, match=message):
        drawn(name, *words)
