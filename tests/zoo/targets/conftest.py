"""Encoders to write: small ones with random weights, of images with any setting, and of every shipped modality."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foundation import config, paths
from foundation.encoders import vit
from foundation.modalities.image.evaluation import EvaluationConfig
from foundation.modalities.image.tokenizer import Config as Patches
from foundation.run.recipe import Recipe
from foundation.zoo.export import write_export
from foundation.zoo.load import LoadedEncoder
from tests.zoo.targets.drawn import random_weights

SHARDS = {
    "quickstart": ("photos", ("png", "jpg")),
    "quickstart-audio": ("fsdd", ("flac",)),
    "quickstart-points": ("shapes16_points", ("npy",)),
    "quickstart-video": ("video_files", ("mp4",)),
    "quickstart-imu": ("hapt_imu", ("npy",)),
}
"""A recipe of every modality, and where real samples of it lie: data set and extensions."""


@pytest.fixture
def image_encoder() -> Callable[..., LoadedEncoder]:
    """``image_encoder(size=64, registers=2)``: a small vision transformer with settings of ``vit.Config``, evaluated at
    that size; trained at 32 pixels."""

    def make(size: int = 32, **settings: Any) -> LoadedEncoder:
        given = {"width": 32, "depth": 2, "heads": 2, "size": (32, 32), "tokenizer": Patches(patch_size=8), **settings}
        made = vit.Config(**given)
        evaluation = EvaluationConfig(size=size)
        return LoadedEncoder(random_weights(made.build()), "image", evaluation, "small", None, None, made, name="small")

    return make


@pytest.fixture
def exported(tmp_path) -> Callable[..., Path]:
    """``exported("quickstart-imu", "encoder.depth=1")``: the encoder of a shipped recipe, untrained, as our export."""

    def write(name: str, *overrides: str) -> Path:
        recipe = config.load(Recipe, paths.recipe(name).read_text(encoding="utf-8"), overrides)
        tensors = random_weights(recipe.encoder.build()).state_dict()
        return write_export(tmp_path / name / "teacher.safetensors", tensors, recipe, "teacher", 7)

    return write


@pytest.fixture
def real_samples(shared_data, tmp_path) -> Callable[[str], list[Path]]:
    """``real_samples("quickstart-imu")``: two files out of a real data set, as that recipe's encoder takes them."""

    def unpack(recipe: str) -> list[Path]:
        folder, endings = SHARDS[recipe]
        found: list[Path] = []
        for shard in sorted(shared_data(folder).glob("*.tar")):
            with tarfile.open(shard) as file:
                for member in file:
                    if member.name.rpartition(".")[2] in endings and len(found) < 2:
                        content = file.extractfile(member)
                        assert content is not None
                        place = tmp_path / f"samples of {recipe}" / Path(member.name).name
                        place.parent.mkdir(exist_ok=True)
                        place.write_bytes(content.read())
                        found.append(place)
        assert len(found) == 2
        return found

    return unpack
