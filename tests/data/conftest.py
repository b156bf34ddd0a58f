"""Small shards and a small decoder."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foundation.data.shards import write_shards
from foundation.errors import SampleError


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
    import torch

    try:
        image = np.asarray(Image.open(io.BytesIO(raw["png"])))
    except OSError as error:
        raise SampleError(raw["__shard__"], raw["__key__"], "decode", str(error)) from error
    kept = {name: value for name, value in raw.items() if name.startswith("__")}
    return kept | {"image": torch.from_numpy(image.copy()).permute(2, 0, 1), "label": int(raw["cls"])}


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
