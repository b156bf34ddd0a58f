"""Recordings that tests make up, encoded by libsndfile."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest


def tone(seconds: float, rate: int, hertz: float = 440.0, level: float = 0.5) -> np.ndarray:
    """[T] float32, a sine."""
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encode(
    waveform: np.ndarray, rate: int, kind: str = "wav", subtype: str | None = None, endian: str | None = None
) -> bytes:
    """A file of [T] or [T, channels]."""
    soundfile = pytest.importorskip("soundfile")
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format=kind.upper(), subtype=subtype, endian=endian)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def raw() -> Callable[..., dict]:
    """``raw(data, "flac", cls=b"3")``: a raw sample."""

    def make(data: bytes, extension: str = "wav", **more: bytes) -> dict:
        return {"__key__": "k7", "__shard__": "s.tar", "__id__": 7, extension: data, **more}

    return make
