"""Letters: reproducible, labelled, each copy another one, and test pictures that are not among the training ones."""

from __future__ import annotations

import argparse
import io
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from foundation.data.build import load
from foundation.data.generated import Numbers
from foundation.errors import UserError


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return load("letters").module


def options(module: ModuleType, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(["--train", "24", "--test", "12", *words])


def test_the_seed_decides_every_picture_and_no_test_picture_is_a_training_one(module):
    def drawn(*words: str) -> list[list[bytes]]:
        splits = module.samples(options(module, *words))
        return [[sample["jpg"] for sample in splits[split]] for split in ("train", "test")]

    train, test = drawn()
    assert [train, test] == drawn()
    assert not set(train) & set(test)
    others = drawn("--seed", "1")
    assert len({*train, *test, *others[0], *others[1]}) == 2 * (24 + 12)


def test_every_letter_is_a_class_and_pictures_have_the_size_asked_for(module):
    arguments = options(module, "--size", "48")
    for split in module.samples(arguments).values():
        pictures = list(split)
        assert {int(sample["cls"]) for sample in pictures} == set(range(len(module.classes(arguments))))
        assert {Image.open(io.BytesIO(sample["jpg"])).size for sample in pictures} == {(48, 48)}
    with pytest.raises(UserError, match="--size must lie in 24 to 4096"):
        module.samples(options(module, "--size", "8"))


def test_the_copies_of_a_picture_differ_in_colour_and_form(module):
    picture = module.picture("E", Numbers(0, 0, "test"), 96).astype(float)
    cells = [picture[r : r + 32, c : c + 32] for r in (0, 32, 64) for c in (0, 32, 64)]
    seen = [cell[cell.max(-1) > 90] for cell in cells]  # pixels of the letter
    assert all(len(pixels) > 30 for pixels in seen)
    colours = np.array([pixels.mean(0) for pixels in seen])
    assert np.linalg.norm(colours[:, None] - colours[None], axis=-1)[np.triu_indices(9, 1)].min() > 5
    masks = [cell.max(-1) > 90 for cell in cells]
    assert all((a != b).mean() > 0.03 for n, a in enumerate(masks) for b in masks[n + 1 :])
