"""Small shards and a small decoder."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foundation.counter import Draws
from foundation.data.pipeline import TrainingPipeline
from foundation.data.shards import write_shards
from foundation.errors import SampleError
from foundation.types import TokenMask, View


def _picture(number: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), number % 256, dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def _samples(number: int, begin: int = 0) -> list[dict[str, Any]]:
    return [
        {"__key__": f"s{row:05d}", "png": _picture(row), "cls": str(row % 10).encode()}
        for row in range(begin, begin + number)
    ]


def _decode(raw: dict[str, Any]) -> dict[str, Any]:
    """What a modality's decoder does, in small."""
    try:
        image = np.asarray(Image.open(io.BytesIO(raw["png"])))
    except OSError as error:
        raise SampleError(raw["__shard__"], raw["__key__"], "decode", str(error)) from error
    kept = {name: value for name, value in raw.items() if name.startswith("__")}
    return kept | {"image": torch.from_numpy(image.copy()).permute(2, 0, 1), "label": int(raw["cls"])}


@dataclass
class Views:
    """Two views, each the picture plus that sample's own noise."""

    def describe(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        return {"global": (2, (3, 4, 4))}

    def prepare(self, samples: list[dict[str, Any]], draws: Draws) -> torch.Tensor:
        images = torch.stack([sample["image"].float() for sample in samples])
        noise = torch.from_numpy(draws.uniform("noise", 2)).float()
        ids = torch.from_numpy(draws.ids)
        assert ids.tolist() == [sample["__id__"] for sample in samples]
        return torch.cat([images + noise[:, view, None, None, None] for view in range(2)])

    def finish(self, prepared: torch.Tensor) -> dict[str, View]:
        rows = len(prepared)
        return {"global": View(prepared, "image", "global", 2, torch.zeros(rows), torch.zeros(rows, 2, 3))}


@dataclass
class Masking:
    """Masks tell what they were told: row's place, group and step."""

    by_coordinates: bool = True
    apart_from: tuple[str, ...] = ()

    def __call__(
        self,
        coordinates: np.ndarray,
        count: int,
        draws: Draws,
        slots: np.ndarray,
        group: int,
        step: int,
        must: np.ndarray | None = None,
    ) -> TokenMask:
        facts = torch.tensor([[int(slot), group, step, len(coordinates)] for slot in slots])
        return TokenMask(facts.repeat(count, 1), torch.zeros(0), torch.zeros(0), torch.zeros(0))


def _pipeline(decode: Callable[[dict[str, Any]], dict[str, Any]], **changes: Any) -> TrainingPipeline:
    settings: dict[str, Any] = {
        "views": Views(),
        "masking": {("global", "masking"): Masking()},
        "coordinates": lambda size: np.zeros((size[0] * size[1], 2), dtype=np.int64),
    }
    return TrainingPipeline(decode=decode, **(settings | changes))


@pytest.fixture
def make_shards(tmp_path: Path) -> Callable[..., Path]:
    """``make_shards(30, per_shard=7)`` -> folder with train shards."""

    def make(number: int, per_shard: int = 7, name: str = "shards") -> Path:
        write_shards(_samples(number), tmp_path / name, "train", samples_per_shard=per_shard)
        return tmp_path / name

    return make


@pytest.fixture
def samples() -> Callable[..., list[dict[str, Any]]]:
    """``samples(5)``: the samples that ``make_shards(5)`` writes."""
    return _samples


@pytest.fixture
def decode() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A decoder that the loader's workers can be handed."""
    return _decode


@pytest.fixture
def pipeline() -> Callable[..., TrainingPipeline]:
    """``pipeline(decode)``: two views of the picture with that sample's noise, and masks that tell their place."""
    return _pipeline
