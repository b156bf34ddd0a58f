"""Photo tiles: reproducible, labelled, and with test windows that no training window touches."""

from __future__ import annotations

import argparse
import io
from types import ModuleType

import numpy as np
import pytest

from foundation.data.build import load
from foundation.errors import UserError


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return load("photo_tiles").module


def options(module, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(list(words))


def test_the_same_seed_draws_the_same_patches_and_another_does_not(module):
    def first(*words: str) -> list[bytes]:
        return [
            sample["jpg"] for sample in module.samples(options(module, "--train", "24", "--test", "2", *words))["train"]
        ]

    assert first() == first()
    assert first() != first("--seed", "1")


def test_every_tile_is_a_class_with_a_name(module):
    arguments = options(module, "--train", "36", "--test", "24")
    names = module.classes(arguments)
    for split in module.samples(arguments).values():
        assert {int(sample["cls"]) for sample in split} == set(range(len(names)))


def test_patches_have_the_size_asked_for(module):
    from PIL import Image

    split = module.samples(options(module, "--train", "3", "--test", "1", "--size", "24"))["train"]
    assert {Image.open(io.BytesIO(sample["jpg"])).size for sample in split} == {(24, 24)}


def test_without_light_a_training_patch_lies_in_its_band(module, monkeypatch):
    """Photographs whose middle quarter is white: no training patch may show white, every test patch must be white."""
    photo = np.zeros((200, 400, 3), np.uint8)
    photo[75:125] = 255
    monkeypatch.setattr(module, "photographs", lambda: {name: photo for name in ("china", "flower", "hopper")})
    monkeypatch.setattr(module, "_GRID", (1, 4))
    splits = module.samples(options(module, "--train", "48", "--test", "48", "--light", "0"))

    def brightness(split: str) -> list[float]:
        from PIL import Image

        return [float(np.asarray(Image.open(io.BytesIO(sample["jpg"]))).mean()) for sample in splits[split]]

    assert max(brightness("train")) < 5
    assert min(brightness("test")) > 250


def test_impossible_options_are_refused(module):
    with pytest.raises(UserError, match="--size must be at least 8"):
        module.samples(options(module, "--size", "4"))
