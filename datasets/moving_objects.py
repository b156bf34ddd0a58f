"""Objects that move before a photograph while the camera pans, with a mask of every object in every frame.

The objects are those of the data set scenes: a form with a pattern. Each drifts, turns and comes a little nearer or
goes away; nearer ones pass in front of farther ones, and none leaves the picture by more than half. ``masks.npy``
follows from how the frames are drawn: 0 the background, else the number of the object, the same in all frames. Test
clips stand before parts of the photographs that no training clip shows.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundation.data import generated
from foundation.data.build import load
from foundation.data.generated import Numbers
from foundation.errors import UserError
from foundation.ranges import Side, argument

CARD = {
    "title": "Moving objects: clips with a mask of every object",
    "licence": "china.jpg and flower.jpg: CC BY 2.0; grace_hopper.jpg: public domain (US Navy)",
    "source": "scikit-learn's load_sample_images; grace_hopper.jpg, as matplotlib's sample data have it",
    "citation": "'Summer Palace' by Pere Ubu, 'dahlia' by dany13, Grace Hopper by James S. Davis (US Navy)",
    "modality": "video",
    "splits": ["train", "test"],
    "layout": "video.npy (uint8 [16, 96, 96, 3], 8 frames per second), cls (kind of the nearest object), masks.npy "
    "(uint8 [16, 96, 96]), json (video_rate)",
    "size": "5 kinds; 60 + 40 clips of 2 s, 60 MB",
}
RATE = 8.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    generated.add_arguments(parser, train=60, test=40)
    parser.add_argument(
        "--size", type=argument(Side), default=96, help="width and height, pixels (default: %(default)s)"
    )
    parser.add_argument("--frames", type=argument(Side), default=16, help="frames of a clip (default: %(default)s)")
    parser.add_argument(
        "--objects", type=argument(Side), default=3, help="most objects in a clip (default: %(default)s)"
    )


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the kinds, by class number."""
    return list(load("scenes").module.KINDS)


def samples(arguments: argparse.Namespace) -> Mapping[str, generated.Split]:
    """Clips of both splits.

    Raises:
        UserError: an option cannot work, or scikit-learn is missing.
    """
    if not 32 <= arguments.size <= 512 or not 2 <= arguments.frames <= 256 or arguments.objects > 20:
        raise UserError("moving_objects: --size must lie in 32 to 512, --frames in 2 to 256, --objects in 1 to 20")
    scenes = load("scenes").module
    grounds = {split: scenes.backgrounds(split) for split in ("train", "test")}

    def make(label: int, number: int, draw: Numbers, split: str) -> dict[str, bytes]:
        kinds = [label, *(draw.whole(len(scenes.KINDS)) for _ in range(draw.whole(arguments.objects)))]
        pixels, masks = film(scenes, grounds[split], kinds, draw, arguments.size, arguments.frames)
        files = {"video.npy": io.BytesIO(), "masks.npy": io.BytesIO()}
        for file, array in zip(files.values(), (pixels, masks), strict=True):
            np.save(file, array)
        return {
            **{name: file.getvalue() for name, file in files.items()},
            "json": json.dumps({"video_rate": RATE}).encode(),
        }

    return generated.samples("moving_objects", arguments, scenes.KINDS, make)


def film(
    scenes: Any, grounds: Sequence[NDArray[np.uint8]], kinds: Sequence[int], draw: Numbers, size: int, frames: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels uint8 [frames, size, size, 3] and objects uint8 [frames, size, size].

    Args:
        scenes: the data set's module.
        grounds: what may be seen behind.
        kinds: of the objects; the first is the nearest.
        draw: numbers of the clip.
        size: of a frame's side.
        frames: of the clip.
    """
    wide = scenes.window(grounds, draw, size + size // 4)
    room = len(wide) - size
    pan = np.stack([np.linspace(draw.between(0, room), draw.between(0, room), frames) for _ in range(2)], 1)
    begins = scenes.things(kinds, draw)
    light = draw.ratio(0.7, 1.4)
    speeds = [(draw.between(-0.4, 0.4), draw.between(-0.4, 0.4), draw.between(-1.5, 1.5)) for _ in begins]
    growth = [draw.ratio(0.75, 1.33) for _ in begins]
    shots = []
    for time, (row, column) in zip(np.linspace(0, 1, frames), pan.round().astype(int), strict=True):
        now = [
            dataclasses.replace(
                thing,
                x=_reflected(thing.x + speed[0] * time),
                y=_reflected(thing.y + speed[1] * time),
                angle=thing.angle + speed[2] * time,
                radius=thing.radius * grown**time,
            )
            for thing, speed, grown in zip(begins, speeds, growth, strict=True)
        ]
        shots.append(scenes.render(wide[row : row + size, column : column + size], now, light))
    return np.stack([shot.pixels for shot in shots]), np.stack([shot.instances for shot in shots])


def _reflected(place: float) -> float:
    """A place in [0, 1]: what would leave comes back."""
    place = abs(place) % 2
    return 2 - place if place > 1 else place
