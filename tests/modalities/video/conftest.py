"""Videos made by PyAV for the tests: each frame's grey level says which frame it is."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from foundation.counter import Draws

STEP = 10
"""Grey levels between two frames: more than any codec is off by."""


def encode(
    times: Sequence[float],
    container: str = "mp4",
    codec: str = "libx264",
    size: tuple[int, int] = (32, 48),
    options: dict[str, str] | None = None,
    draw: Callable[[int], np.ndarray] | None = None,
) -> bytes:
    """A file whose frames begin at some times (seconds, to the millisecond); frame i is grey of level 10 + 10 i."""
    import av

    buffer = io.BytesIO()
    file = av.open(buffer, "w", format=container)
    stream = file.add_stream(codec, rate=30, options=options or {})
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
    for number, seconds in enumerate(times):
        pixels = np.full((*size, 3), 10 + STEP * number, np.uint8) if draw is None else draw(number)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = round(seconds * 1000), Fraction(1, 1000)
        for packet in stream.encode(frame):
            file.mux(packet)
    for packet in stream.encode():
        file.mux(packet)
    file.close()
    return buffer.getvalue()


def numbers(video: Any) -> list[int]:
    """Which frames of :func:`encode` a clip [T, 3, H, W] shows."""
    levels = video.float().mean(dim=(1, 2, 3))
    return [round((float(level) - 10) / STEP) for level in levels]


def raw(**members: bytes) -> dict[str, Any]:
    """A raw sample; double underscores in names of members stand for dots."""
    sample = {"__key__": "k", "__shard__": "s.tar", "__id__": 5}
    return sample | {name.replace("__", "."): data for name, data in members.items()}


def draws(*ids: int, epoch: int = 0, seed: int = 3) -> Draws:
    return Draws(seed, np.full(len(ids), epoch, np.int64), np.array(ids, np.int64))


@pytest.fixture(scope="session")
def mp4() -> bytes:
    """20 frames at 10 frames per second, a key frame every 5."""
    return encode(np.arange(20) / 10, options={"g": "5"})
