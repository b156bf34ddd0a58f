"""Clips of a camera that pans over photographs, under random light: which part of which photograph is this?

The photographs and their 18 parts are those of the data set ``photo_tiles``. A clip moves a small window over a part,
in any direction, at any speed and size, mirrored or not, under a colour cast and a flickering exposure of its own. Mean
and deviation of the frames say little about the part; texture and structure say a lot. Test clips come from a band of
each part that no training clip touches.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundation.data import generated
from foundation.data.build import load
from foundation.data.generated import Numbers
from foundation.errors import UserError
from foundation.ranges import Share, Side, argument

CARD = {
    "title": "Photo pans",
    "licence": "china.jpg and flower.jpg: CC BY 2.0; grace_hopper.jpg: public domain (US Navy)",
    "source": "scikit-learn's load_sample_images, matplotlib's sample data",
    "citation": "'Summer Palace' by Pere Ubu, 'dahlia' by dany13, Grace Hopper by James S. Davis (US Navy)",
    "modality": "video",
    "splits": ["train", "test"],
    "layout": "video.npy (uint8 [10, 32, 32, 3], 8 frames per second), cls (part), json (video_rate)",
    "size": "18 parts; 2,400 + 600 clips of 1.25 s, 94 MB",
}
RATE, FRAMES = 8.0, 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    generated.add_arguments(parser, train=2400, test=600)
    parser.add_argument(
        "--size", type=argument(Side), default=32, help="width and height, pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--light", type=argument(Share), default=0.5, help="strength of the colour cast, 0 to 1 (default: %(default)s)"
    )


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the parts, by class number."""
    names: list[str] = load("photo_tiles").module.classes(arguments)
    return names


def samples(arguments: argparse.Namespace) -> Mapping[str, generated.Split]:
    """Clips of both splits.

    Raises:
        UserError: an option cannot work, or scikit-learn or matplotlib is missing.
    """
    if not 8 <= arguments.size <= 64 or not 0 <= arguments.light <= 1:
        raise UserError("photo_pans: --size must lie in 8 to 64, --light in [0, 1]")
    photos = load("photo_tiles").module
    tiles = [tile for photo in photos.photographs().values() for tile in photos.tiles(photo)]

    def make(label: int, number: int, draw: Numbers, split: str) -> dict[str, bytes]:
        band = photos.band(tiles[label], split, draw.between(0.0, 1.0))
        frames = pan(band, draw, arguments.size, partial(photos.light, strength=arguments.light))
        file = io.BytesIO()
        np.save(file, frames)
        return {"video.npy": file.getvalue(), "json": json.dumps({"video_rate": RATE}).encode()}

    return generated.samples("photo_pans", arguments, classes(arguments), make)


def pan(band: NDArray[np.uint8], draw: Numbers, size: int, light: Any) -> NDArray[np.uint8]:
    """[10, size, size, 3] a window that moves over a picture in a straight line, all of it inside.

    Args:
        band: [H, W, 3] what may be seen.
        draw: numbers of the clip.
        size: width and height of the frames.
        light: from pixels and eight random numbers to lit pixels.
    """
    from PIL import Image

    side = min(round(size * draw.between(0.8, 1.4)), band.shape[0], band.shape[1])
    room = np.array(band.shape[:2]) - side
    angle, reach = draw.between(0.0, 2 * math.pi), draw.between(0.3, 1.2) * side
    way = np.array([math.sin(angle), math.cos(angle)]) * reach
    way = np.clip(way, -room, room)  # a low band leaves no room to move up or down
    low, high = np.maximum(0, -way), np.minimum(room, room - way)
    begin = low + draw.many(2) * (high - low)
    cast, flicker, mirrored = draw.many(8), draw.between(0.0, 0.1), draw.between(0, 1) < 0.5
    picture, frames = Image.fromarray(band), []
    for share in np.linspace(0.0, 1.0, FRAMES):
        top, left = begin + share * way
        seen = picture.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
        lit = cast.copy()
        lit[3] = np.clip(lit[3] + flicker * draw.between(-1, 1), 0, 1)
        frames.append(light(np.asarray(seen, np.float64), lit))
    clip = np.stack(frames)
    return np.ascontiguousarray(clip[:, :, ::-1] if mirrored else clip)
