"""Small untrained models, ready to be asked something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from foundation.encoders import vit
from foundation.modalities.image import tokenizer
from foundation.modalities.image.evaluation import EvaluationConfig
from foundation.seeded import seeded
from foundation.tasks.base import Settings, Subject
from foundation.zoo.load import LoadedEncoder


def image_subject(train: Sequence[str], test: Sequence[str] = (), side: int = 48, **settings: Any) -> Subject:
    """An encoder of pictures ``side`` pixels large, in patches of 8."""
    config = vit.Config(
        preset=None, width=48, depth=2, heads=4, size=(side, side), tokenizer=tokenizer.Config(patch_size=8)
    )
    return subject(config, "image", EvaluationConfig(size=side, crop_fraction=1.0), train, test, **settings)


def subject(
    config: Any, modality: str, evaluation: Any, train: Sequence[str], test: Sequence[str] = (), **settings: Any
) -> Subject:
    """The encoder of a config with random weights."""
    with seeded(0):
        encoder = config.build().eval().requires_grad_(False)
    loaded = LoadedEncoder(encoder, modality, evaluation, "untrained", None, None, config)
    return Subject(loaded, evaluation, tuple(train), tuple(test), Settings(**settings))
