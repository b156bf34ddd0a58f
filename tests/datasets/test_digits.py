"""Digits on clutter: deterministic, split by scan, and hard for raw pixels."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foundation.errors import UserError

pytest.importorskip("sklearn")
Read = Callable[..., dict[str, list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def digits() -> dict[str, list[dict[str, Any]]]:
    from foundation.data.build import load

    module = load("digits").module
    import argparse

    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return {
        s: list(rows) for s, rows in module.samples(parser.parse_args(["--copies", "1", "--test-copies", "1"])).items()
    }


def scans(samples: list[dict[str, Any]]) -> set[str]:
    return {sample["__key__"].split("-")[1] for sample in samples}


def pixels(samples: list[dict[str, Any]]) -> np.ndarray:
    images = [np.asarray(Image.open(io.BytesIO(sample["jpg"]))) for sample in samples]
    return np.stack(images).reshape(len(samples), -1) / 255


def test_test_scans_never_occur_in_training(digits: dict[str, list[dict[str, Any]]], read: Read) -> None:
    train, test = scans(digits["train"]), scans(digits["test"])
    assert (len(train), len(test), train & test) == (1437, 360, set())
    other = read("digits", "--copies", "1", "--test-copies", "2", "--seed", "9", "--canvas", "16")
    assert scans(other["train"]) == train and scans(other["test"]) == test  # another seed keeps the split
    assert len(other["test"]) == 720


def test_clutter_comes_from_the_same_split() -> None:
    from foundation.data.build import load

    module = load("digits").module
    seen = []
    number, size = 50, 24
    train = np.arange(40)
    marked = np.zeros((number, 8, 8))
    marked[40:] = np.nan  # a piece of a test scan would poison the picture

    for scan in range(40):
        random = module._Random(np.random.default_rng(scan).random(200))
        seen.append(np.asarray(module._draw(marked, scan, train, random, size, (0.5, 0.8), 1.0), dtype=float))
    assert np.isfinite(np.stack(seen)).all()


def test_equal_options_give_equal_bytes_and_seeds_differ(digits: dict[str, list[dict[str, Any]]], read: Read) -> None:
    again = read("digits", "--copies", "1", "--test-copies", "1")
    assert again == digits
    other = read("digits", "--copies", "1", "--test-copies", "1", "--seed", "1")
    assert [s["cls"] for s in other["test"]] == [s["cls"] for s in digits["test"]]
    assert all(a["jpg"] != b["jpg"] for a, b in zip(other["test"], digits["test"], strict=True))


def test_raw_pixels_do_badly(digits: dict[str, list[dict[str, Any]]]) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    labels = {split: [int(s["cls"]) for s in samples] for split, samples in digits.items()}
    classifier = KNeighborsClassifier(5).fit(pixels(digits["train"]), labels["train"])
    assert classifier.score(pixels(digits["test"]), labels["test"]) < 0.35
    assert min(np.bincount(labels["test"], minlength=10)) > 20


def test_options_shape_the_pictures(read: Read) -> None:
    samples = read("digits", "--canvas", "48", "--format", "png", "--copies", "1", "--test-copies", "1")["test"]
    assert {Image.open(io.BytesIO(sample["png"])).size for sample in samples} == {(48, 48)}


@pytest.mark.parametrize("words", [("--scale", "0.9", "0.5"), ("--canvas", "8"), ("--clutter", "2"), ("--copies", "0")])
def test_impossible_options_are_named(read: Read, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=words[0]):
        read("digits", *words)
