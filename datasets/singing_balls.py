"""Balls that sing: a bright ball rises and falls as its voice does, one ball after another, in pictures and in sound.

The sound is that of the data set calls (a phrase whose pitch rises or falls, smoothly, trembling or in beats, again and
again by one caller after another); the ball is as high as the pitch and as bright as the voice is loud. Voice and
noise differ much from pair to pair, the ball's size, its place and the light a little. So what pictures and sound of a
moment share is the course of the call, and no more. Callers of the test split are heard nowhere else.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundation.data import generated
from foundation.data.build import load
from foundation.data.generated import Numbers
from foundation.errors import UserError
from foundation.ranges import NonNegative, Side, argument

CARD = {
    "title": "Balls that sing",
    "licence": "CC0-1.0",
    "source": "made by this program",
    "citation": "none",
    "modality": "paired",
    "splits": ["train", "test"],
    "layout": "video.npy (uint8 [20, 24, 24], grey, 10 frames per second), wav (8 kHz, 16 bits), cls (call), json",
    "size": "6 calls; 600 + 300 pairs of 2 s, 40 MB",
}
RATE, FRAMES = 10.0, 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    generated.add_arguments(parser, train=600, test=300)
    parser.add_argument(
        "--noise", type=argument(NonNegative), default=1.0, help="loudness of the background (default: %(default)s)"
    )
    parser.add_argument(
        "--size", type=argument(Side), default=24, help="width and height, pixels (default: %(default)s)"
    )


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the calls, by class number."""
    return list(load("calls").module.CALLS)


def samples(arguments: argparse.Namespace) -> Mapping[str, generated.Split]:
    """Pairs of both splits.

    Raises:
        UserError: an option cannot work.
    """
    if arguments.noise > 10 or not 8 <= arguments.size <= 128:
        raise UserError("singing_balls: --noise must lie in 0 to 10, --size in 8 to 128")
    calls = load("calls").module

    def make(label: int, number: int, draw: Numbers, split: str) -> dict[str, bytes]:
        def caller(number: int) -> Numbers:
            return Numbers(arguments.seed, number % calls.CALLERS[split], f"singing_balls.{split}.caller")

        pitch, loud, sound = song(calls, calls.CALLS[label], caller, draw, arguments.noise)
        every = len(pitch) // FRAMES
        frames = film(pitch[every // 2 :: every], loud[every // 2 :: every], draw, arguments.size)
        file = io.BytesIO()
        np.save(file, frames)
        return {
            "video.npy": file.getvalue(),
            "wav": calls.wave_file(sound),
            "json": json.dumps({"video_rate": RATE}).encode(),
        }

    return generated.samples("singing_balls", arguments, calls.CALLS, make)


def song(
    calls: Any, call: str, callers: Callable[[int], Numbers], draw: Numbers, noise: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Pitch (octaves around the caller's own), loudness in [0, 1] and sound [samples], its peak below 1.

    Args:
        calls: the data set's module.
        call: one of its calls.
        callers: the numbers of one of the split's callers.
        draw: numbers of this pair.
        noise: loudness of the background.
    """
    length = round(calls.SECONDS * calls.RATE)
    parts: list[tuple[Any, Any, Any]] = []
    while sum(len(part[0]) for part in parts) < length:
        count = round(calls.RATE / draw.ratio(1.2, 2.4))  # slow enough to be seen
        pitch, loud = calls.course(call, np.arange(count) / count, draw)
        parts.append((pitch, loud, calls.voice(pitch, loud, callers(draw.whole(1 << 30)), draw)))
    pitch, loud, sound = (np.concatenate(part)[:length] for part in zip(*parts, strict=True))
    sound = sound + noise * draw.ratio(0.03, 0.3) * draw.normal(length)
    return pitch, loud, sound / max(float(np.abs(sound).max()), 1e-9) * draw.ratio(0.25, 0.9)


def film(pitch: NDArray[np.float64], loud: NDArray[np.float64], draw: Numbers, size: int) -> NDArray[np.uint8]:
    """[FRAMES, size, size] the ball before a background of its own.

    Args:
        pitch: [FRAMES or more] of the moment of each frame.
        loud: likewise.
        draw: numbers of this pair.
        size: width and height.
    """
    rows, columns = np.mgrid[0:size, 0:size] / (size - 1)
    across, radius, light = draw.between(0.45, 0.55), draw.between(0.11, 0.14), draw.between(0.2, 0.3)
    slope = light * (1.0 + 0.1 * (draw.between(-1, 1) * (columns - 0.5) + draw.between(-1, 1) * (rows - 0.5)))
    speckle = 0.02 * draw.normal(size * size).reshape(size, size)
    height = 0.5 + draw.between(0.45, 0.6) * pitch[:FRAMES]
    ball = np.exp(-(((rows - 1 + height[:, None, None]) ** 2 + (columns - across) ** 2) / radius**2))
    shares = slope + speckle + draw.between(0.5, 0.6) * loud[:FRAMES, None, None] * ball
    shares = shares + 0.02 * draw.normal(shares.size).reshape(shares.shape)
    pixels: NDArray[np.uint8] = (255.0 * shares).clip(0, 255).round().astype(np.uint8)
    return pixels
