"""A folder of pictures as a person has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def draw(path: Path, colour: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).normal(70, 25, (24, 28, 3))
    pixels[..., colour] += 100
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def photographs(tmp_path) -> Path:
    """Two classes of twelve pictures."""
    for number in range(24):
        name = ("red", "green")[number % 2]
        draw(tmp_path / "photographs" / name / f"{number:02d}.png", number % 2, number)
    return tmp_path / "photographs"
