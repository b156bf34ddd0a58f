"""Drifting textures: twelve kinds of motion of cloudy textures that look alike, under random light.

A clip is a texture of random clouds that drifts in one of eight directions, two of them that cross like shadows, one
that trembles, or one that dissolves into others. Speed, contrast, light, dirt on the lens and noise are drawn for each
clip. A single frame, the mean of all and where they change say next to nothing about the kind; how frames follow each
other says it. No texture occurs twice.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from foundation.data import generated
from foundation.data.generated import Numbers
from foundation.errors import UserError

_DIRECTIONS = ("right", "down right", "down", "down left", "left", "up left", "up", "up right")
MOTIONS = (*_DIRECTIONS, "cross level", "cross upright", "tremble", "dissolve")
RATE, FRAMES = 8.0, 12

CARD = {
    "title": "Drifting textures",
    "licence": "CC0-1.0",
    "source": "made by this program",
    "citation": "none",
    "modality": "video",
    "splits": ["train", "test"],
    "layout": "video.npy (uint8 [12, 32, 32], 8 frames per second), cls (motion), json (video_rate)",
    "size": "12 motions; 2,400 + 600 clips of 1.5 s, 44 MB",
}
_TORUS = 64  # pixels after which a texture repeats


def add_arguments(parser: argparse.ArgumentParser) -> None:
    generated.add_arguments(parser, train=2400, test=600)
    parser.add_argument("--size", type=int, default=32, help="width and height, pixels (default: %(default)s)")


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the motions, by class number."""
    return list(MOTIONS)


def samples(arguments: argparse.Namespace) -> Mapping[str, generated.Split]:
    """Clips of both splits.

    Raises:
        UserError: an option cannot work.
    """
    if not 16 <= arguments.size <= _TORUS:
        raise UserError(f"--size must lie in 16 to {_TORUS} pixels, got {arguments.size}")

    def make(label: int, number: int, draw: Numbers, split: str) -> dict[str, bytes]:
        file = io.BytesIO()
        np.save(file, film(MOTIONS[label], draw, arguments.size))
        return {"video.npy": file.getvalue(), "json": json.dumps({"video_rate": RATE}).encode()}

    return generated.samples("drifts", arguments, MOTIONS, make)


class Texture:
    """Random clouds that repeat after 64 pixels: a band of spatial frequencies, moved exactly by their phases."""

    _WAVES = np.stack(np.meshgrid(np.fft.fftfreq(_TORUS), np.fft.rfftfreq(_TORUS), indexing="ij"))  # per pixel

    def __init__(self, draw: Numbers) -> None:
        octaves = np.log2(np.maximum(np.hypot(*self._WAVES), 1e-9) * draw.ratio(6.0, 9.0))
        white = draw.normal(_TORUS * _TORUS).reshape(_TORUS, _TORUS)
        self._spectrum = np.fft.rfft2(white) * np.exp(-0.5 * (octaves / 0.5) ** 2)
        self._spectrum /= np.fft.irfft2(self._spectrum).std()

    def at(self, down: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
        """[T, 64, 64] moved by some pixels; mean 0, deviation 1."""
        turns = self._WAVES[0] * down[:, None, None] + self._WAVES[1] * right[:, None, None]
        return np.fft.irfft2(self._spectrum * np.exp(-2j * math.pi * turns))


def film(motion: str, draw: Numbers, size: int) -> NDArray[np.uint8]:
    """[12, size, size] one clip."""
    time = np.arange(FRAMES, dtype=np.float64)
    speed, still = draw.ratio(0.9, 2.2), np.zeros(FRAMES)
    first = Texture(draw)
    if motion in _DIRECTIONS:
        angle = (_DIRECTIONS.index(motion) + draw.between(-0.2, 0.2)) * math.pi / 4
        shown = first.at(speed * math.sin(angle) * time, speed * math.cos(angle) * time)
    elif motion in ("cross level", "cross upright"):
        way = (still, speed * time) if motion == "cross level" else (speed * time, still)
        shown = (first.at(*way) + Texture(draw).at(-way[0], -way[1])) / math.sqrt(2)
    elif motion == "tremble":
        shown = first.at(*(speed * draw.normal(FRAMES) for _ in range(2)))
    else:
        angle = 2 * math.pi * draw.ratio(0.06, 0.12) * time[:, None, None] + draw.between(0.0, 6.28)
        shown = np.cos(angle) * first.at(still, still) + np.sin(angle) * Texture(draw).at(still, still)
    across = (np.arange(size) + 0.5) / size - 0.5
    slope = draw.between(-0.3, 0.3) * across[None, :] + draw.between(-0.3, 0.3) * across[:, None]
    dirt = draw.between(0.0, 0.04) * Texture(draw).at(still[:1], still[:1])[0, :size, :size]
    noise = draw.between(0.0, 0.04) * draw.normal(FRAMES * size * size).reshape(FRAMES, size, size)
    grey = draw.between(0.35, 0.65) + slope + dirt + draw.ratio(0.08, 0.2) * shown[:, :size, :size] + noise
    return (255 * np.clip(grey, 0, 1)).round().astype(np.uint8)
