"""Pictures whose colour says their class, their labels and a number; and an untrained encoder to begin with."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foundation import config
from foundation.data.write import write_shards
from foundation.run.recipe import Recipe
from foundation.zoo.export import write_export

RECIPE = """
name: small
data: {shards: []}
views:
  name: image
  global_views: {count: 2, size: 16}
  local_views: {count: 0, size: 8}
encoder: {name: vit, preset: null, width: 32, depth: 2, heads: 2, size: [16, 16], drop_path: 0.1, registers: 1,
  tokenizer: {name: image, patch_size: 8}}
objectives: [{name: koleo}]
optimizer: {}
train: {length: 8 steps, batch_size: 8}
"""


def samples(number: int, seed: int):
    """Red, green and blue pictures; every fourth shows noise beside."""
    random = np.random.default_rng(seed)
    for place in range(number):
        colour, strength = place % 3, random.uniform(0.3, 1.0)
        pixels = random.normal(60, 30, (20, 24, 3))
        pixels[..., colour] += 160 * strength
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "PNG")
        tags = [name for name, there in (("warm", colour == 0), ("bright", strength > 0.65)) if there]
        facts = {"label": ["red", "green", "blue"][colour], "tags": tags, "strength": strength}
        yield {"__key__": f"p{place // 4:02d}-{place:04d}", "png": file.getvalue(), "json": json.dumps(facts).encode()}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> tuple[str, str]:
    """Patterns of training and test shards."""
    folder = tmp_path_factory.mktemp("pictures")
    write_shards(samples(144, 0), folder / "train", "train", samples_per_shard=64)
    write_shards(samples(48, 1), folder / "test", "test")
    return str(folder / "train" / "train-*.tar"), str(folder / "test" / "test-*.tar")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> Path:
    """An untrained encoder as an exported file."""
    recipe = config.load(Recipe, RECIPE)
    torch.manual_seed(0)
    tensors = recipe.encoder.build().state_dict()
    return write_export(tmp_path_factory.mktemp("encoder") / "small.safetensors", tensors, recipe, "student", 0)
