"""Clips in which a few shapes of one kind drift, turn, vanish and come again elsewhere: shapes of which kind?

Discs, rings, bars, crosses, corners, pairs of dots, stripes or targets, light and dark, of any size and turned any way,
in front of a cloudy ground, with the noise of a camera. All shapes of a clip are of one kind; everything else about
them differs, also within the clip, so that two cuttings of a clip have nothing in common but the kind. Every shape of
a size has the same contrast on the whole: how light a place is, or how much it changes, says little about the kind.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from foundation.data import generated
from foundation.data.generated import Numbers
from foundation.errors import UserError
from foundation.ranges import NonNegative, Side, argument

CARD = {
    "title": "Drifting shapes",
    "licence": "CC0-1.0",
    "source": "made by this program",
    "citation": "none",
    "modality": "video",
    "splits": ["train", "test"],
    "layout": "video.npy (uint8 [10, 32, 32], grey, 8 frames per second), cls (kind), json (video_rate)",
    "size": "8 kinds; 600 + 600 clips of 1.25 s, 16 MB",
}
RATE, FRAMES, LIFE = 8.0, 10, 5
KINDS = ("disc", "ring", "bar", "cross", "corner", "pair", "stripes", "target")

Values = NDArray[np.float64]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    generated.add_arguments(parser, train=600, test=600)
    parser.add_argument(
        "--size", type=argument(Side), default=32, help="width and height, pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--noise",
        type=argument(NonNegative),
        default=1.0,
        help="clouds and noise of the camera, 0 is none (default: %(default)s)",
    )


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the kinds, by class number."""
    return list(KINDS)


def samples(arguments: argparse.Namespace) -> Mapping[str, generated.Split]:
    """Clips of both splits.

    Raises:
        UserError: an option cannot work.
    """
    if not 8 <= arguments.size <= 64 or not 0 <= arguments.noise <= 10:
        raise UserError("drifting_shapes: --size must lie in 8 to 64, --noise in 0 to 10")

    def make(label: int, number: int, draw: Numbers, split: str) -> dict[str, bytes]:
        file = io.BytesIO()
        np.save(file, clip(KINDS[label], draw, arguments.size, arguments.noise))
        return {"video.npy": file.getvalue(), "json": json.dumps({"video_rate": RATE}).encode()}

    return generated.samples("drifting_shapes", arguments, KINDS, make)


def shape(kind: str, u: Values, v: Values) -> Values:
    """How much of a pixel belongs to a shape, in [0, 1], as ``u`` and ``v``.

    Args:
        kind: one of :data:`KINDS`.
        u: right of the shape's centre, along its own axes; it reaches to about 1.
        v: below it.
    """
    far = np.hypot(u, v)
    distance = {  # how far outside the shape's middle line, less half its width
        "disc": lambda: far - 0.75,
        "ring": lambda: np.abs(far - 0.75) - 0.2,
        "bar": lambda: np.maximum(np.abs(u) - 1.0, np.abs(v) - 0.22),
        "cross": lambda: np.minimum(
            np.maximum(np.abs(u) - 1.0, np.abs(v) - 0.2), np.maximum(np.abs(v) - 1.0, np.abs(u) - 0.2)
        ),
        "corner": lambda: np.minimum(
            np.maximum(np.abs(u) - 0.9, np.abs(v - 0.7) - 0.2), np.maximum(np.abs(v) - 0.9, np.abs(u - 0.7) - 0.2)
        ),
        "pair": lambda: np.hypot(np.abs(u) - 0.7, v) - 0.35,
        "stripes": lambda: np.maximum(np.abs(u) - 0.9, np.abs(np.abs(v) - 0.55) - 0.2),
        "target": lambda: np.minimum(far - 0.3, np.abs(far - 0.85) - 0.15),
    }[kind]()
    return np.clip(0.5 - distance / 0.25, 0.0, 1.0)


def clip(kind: str, draw: Numbers, size: int, noise: float) -> NDArray[np.uint8]:
    """[10, size, size] grey frames.

    Args:
        kind: one of :data:`KINDS`.
        draw: numbers of the clip.
        size: width and height of the frames.
        noise: strength of clouds and camera noise.
    """
    from PIL import Image

    count, contrast, light = 4 + draw.whole(3), draw.ratio(50.0, 100.0), draw.between(100.0, 155.0)
    clouds = Image.fromarray((noise * draw.between(5.0, 25.0) * draw.normal(25).reshape(5, 5)).astype(np.float32))
    frames = light + np.asarray(clouds.resize((size, size), Image.Resampling.BICUBIC), np.float64)
    frames = frames + noise * draw.between(3.0, 10.0) * draw.normal(FRAMES * size * size).reshape(FRAMES, size, size)
    pixels = (np.arange(size) + 0.5) * 2.0 / size - 1.0
    for _ in range(count):
        number = -draw.whole(LIFE)
        while number < FRAMES:
            across, down, angle = draw.between(-0.9, 0.9), draw.between(-0.9, 0.9), draw.between(0.0, 2.0 * np.pi)
            speed, heading, spin = draw.between(0.02, 0.12), draw.between(0.0, 2.0 * np.pi), draw.between(-0.2, 0.2)
            radius, sign = draw.ratio(0.24, 0.42), draw.sign()
            for age in range(LIFE):
                if 0 <= number + age < FRAMES:
                    x = (pixels - across - age * speed * np.cos(heading)) / radius
                    y = (pixels - down - age * speed * np.sin(heading))[:, None] / radius
                    sine, cosine = np.sin(angle + age * spin), np.cos(angle + age * spin)
                    seen = shape(kind, cosine * x + sine * y, cosine * y - sine * x)
                    energy = np.sqrt((seen**2).sum()) * 2.0 / (size * radius)  # the same for all kinds
                    frames[number + age] += sign * contrast * seen / max(energy, 0.8)
            number += LIFE
    return frames.round().clip(0, 255).astype(np.uint8)
