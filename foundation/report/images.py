"""Pixels as data URIs, and what a modality's drawing needs to know of its views."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray


def png(pixels: NDArray[np.uint8]) -> str:
    """Data URI of [H, W, 3] or [H, W] uint8."""
    return _encode(pixels, "PNG", optimize=True)


def photo(pixels: NDArray[np.uint8]) -> str:
    """Data URI of [H, W, 3] uint8: PNG where small, else JPEG."""
    return png(pixels) if pixels.shape[0] <= 64 else _encode(pixels, "JPEG", quality=87)


def _encode(pixels: NDArray[np.uint8], kind: str, **options: Any) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(stream.getvalue()).decode()


def unit_range(values: NDArray[np.floating], low: float = 1, high: float = 99) -> NDArray[np.floating]:
    """Values scaled so that two percentiles become 0 and 1, cut there."""
    a, b = np.percentile(values, [low, high])
    return np.clip((values - a) / max(b - a, 1e-12), 0, 1)


def options_of(evaluation: Any) -> dict[str, Any]:
    """What a picture room needs to know of an evaluation view: its normalisation, the axis that points upwards."""
    evaluation = getattr(evaluation, "own", evaluation)
    return {key: getattr(evaluation, key) for key in ("mean", "std", "up") if hasattr(evaluation, key)}
