"""Clips of a camera that moves over photographs, a few shots one after another: how does the camera move?

It pans to one of four sides, closes in or draws back, or rolls one way or the other; all shots of a clip make the same
move. Everything else differs from shot to shot: photograph, place, size, which way up, mirrored or not, negative or
not, speed, a slight drift, exposure, contrast. So two cuttings of a clip share the move and, but for a shot that both
see, no picture: the task was chosen because that teaches moves without labels. No frame by itself tells the move, and
there are few clips, so that neighbours of raw pixels seldom show the same. Speeds and lengths of shots were chosen on
the data of another seed, by what an encoder could learn in some minutes. Test clips come from parts of the photographs
that no training clip shows.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from foundation.data import generated
from foundation.data.build import load
from foundation.data.generated import Numbers
from foundation.errors import UserError
from foundation.ranges import Share, Side, argument

CARD = {
    "title": "Camera moves",
    "licence": "china.jpg and flower.jpg: CC BY 2.0; grace_hopper.jpg: public domain (US Navy)",
    "source": "scikit-learn's load_sample_images; grace_hopper.jpg, as matplotlib's sample data have it",
    "citation": "'Summer Palace' by Pere Ubu, 'dahlia' by dany13, Grace Hopper by James S. Davis (US Navy)",
    "modality": "video",
    "splits": ["train", "test"],
    "layout": "video.npy (uint8 [32, 32, 32], grey, 8 frames per second), cls (move), json (video_rate)",
    "size": "8 moves; 1,000 + 600 clips of 4 s, 57 MB",
}
RATE, FRAMES = 8.0, 32
MOVES = ("pan right", "pan down", "pan left", "pan up", "close in", "draw back", "roll right", "roll left")
SHOT = (7, 11)
"""Fewest and most frames of a shot."""
_ROOM = 80
"""Pixels beyond the edges of a picture into which a shot from within it may lead."""
_TRIES = 4
"""Places of which a shot takes the one with most contrast."""

Pixels = NDArray[np.uint8]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    generated.add_arguments(parser, train=1000, test=600)
    parser.add_argument(
        "--size", type=argument(Side), default=32, help="width and height, pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--light",
        type=argument(Share),
        default=0.5,
        help="how much the light differs from shot to shot, 0 to 1 (default: %(default)s)",
    )


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the moves, by class number."""
    return list(MOVES)


def samples(arguments: argparse.Namespace) -> Mapping[str, generated.Split]:
    """Clips of both splits.

    Raises:
        UserError: an option cannot work, or scikit-learn is missing.
    """
    if not 8 <= arguments.size <= 64 or not 0 <= arguments.light <= 1:
        raise UserError("camera_moves: --size must lie in 8 to 64, --light in [0, 1]")
    photos = load("photo_tiles").module
    parts = {split: [part(photo, split) for photo in photos.photographs().values()] for split in ("train", "test")}

    def make(label: int, number: int, draw: Numbers, split: str) -> dict[str, bytes]:
        file = io.BytesIO()
        np.save(file, clip(parts[split], MOVES[label], draw, arguments.size, arguments.light))
        return {"video.npy": file.getvalue(), "json": json.dumps({"video_rate": RATE}).encode()}

    return generated.samples("camera_moves", arguments, MOVES, make)


def clip(pictures: Sequence[Pixels], move: str, draw: Numbers, size: int, light: float) -> Pixels:
    """[32, size, size] shots of one move, one after another; it begins anywhere in the first.

    Args:
        pictures: what may be seen, from :func:`part`.
        move: one of :data:`MOVES`.
        draw: numbers of the clip.
        size: width and height of the frames.
        light: how much the light differs from shot to shot, 0 to 1.
    """
    shots: list[Pixels] = []
    skipped = draw.whole(SHOT[0])
    while sum(map(len, shots)) < FRAMES + skipped:
        picture = pictures[draw.whole(len(pictures))]
        frames = shot(picture, move, draw, size, SHOT[0] + draw.whole(SHOT[1] - SHOT[0] + 1))
        shares = frames / 255.0
        if draw.between(0.0, 1.0) < 0.5:  # a negative
            shares = 1.0 - shares
        exposure = 2.0 ** (light * draw.between(-1.0, 1.0) + 0.1 * light * (2.0 * draw.many(len(frames)) - 1.0))
        shares = shares ** exposure[:, None, None]
        contrast, grey = 1.0 + light * draw.between(-1.0, 1.0), shares.mean()
        shots.append((255.0 * (grey + contrast * (shares - grey))).clip(0, 255).round().astype(np.uint8))
    return np.concatenate(shots)[skipped : skipped + FRAMES]


def part(photo: Pixels, split: str) -> Pixels:
    """What a split may show of a photograph at half its size: the left five eighths to train, the rest to test.

    Beyond the edges it goes on mirrored, as far as the camera may see.
    """
    from PIL import Image

    edge = photo.shape[1] * 5 // 8
    own = Image.fromarray(photo[:, :edge] if split == "train" else photo[:, edge:])
    return np.pad(np.asarray(own.convert("L").reduce(2)), _ROOM, "symmetric")


def place(picture: Pixels, draw: Numbers) -> NDArray[np.float64]:
    """[2] x and y of a place in a picture: of some the one with most contrast, for a clear sky does not show a move."""
    places = _ROOM + draw.many(2 * _TRIES).reshape(_TRIES, 2) * (np.array(picture.shape[::-1]) - 2 * _ROOM)
    around = [picture[int(y) - 16 : int(y) + 16, int(x) - 16 : int(x) + 16] for x, y in places]
    return places[int(np.argmax([seen.std() for seen in around]))]


def shot(picture: Pixels, move: str, draw: Numbers, size: int, length: int) -> Pixels:
    """[length, size, size] one shot.

    Args:
        picture: [H, W] what may be seen, from :func:`part`.
        move: one of :data:`MOVES`.
        draw: numbers of the shot.
        size: width and height of the frames.
        length: frames.
    """
    from PIL import Image

    kind, way = move.split()
    speed = draw.ratio(1.0, 2.0)
    drift = draw.between(0.0, 0.5) * _unit(draw.between(0.0, 2.0 * math.pi))  # in 32nds of a frame's side
    zoom, turn = draw.between(-0.01, 0.01), draw.between(-0.02, 0.02)  # per frame
    if kind == "pan":
        side = ("right", "down", "left", "up").index(way)
        drift = drift + 1.9 * speed * _unit(math.pi / 2 * side + draw.between(-0.3, 0.3))
    elif kind == "roll":
        turn += (-1.0 if way == "left" else 1.0) * 0.15 * speed
    else:
        zoom += (1.0 if way == "in" else -1.0) * 0.08 * speed
    scale = 32.0 / size * draw.ratio(0.7, 1.3)
    lies = _turned(draw.between(0.0, 2.0 * math.pi)) @ np.diag([draw.sign(), 1.0])  # which way up the picture lies
    middle = place(picture, draw)
    whole = Image.fromarray(picture)
    frames = []
    for time in np.arange(length) - (length - 1) / 2:
        grow, angle = scale * math.exp(-zoom * time), turn * time
        matrix = lies @ (grow * _turned(angle))
        offset = middle + lies @ (scale * size / 32.0 * time * drift) - matrix @ np.array([size / 2, size / 2])
        values = (*matrix[0], offset[0], *matrix[1], offset[1])
        frames.append(
            np.asarray(whole.transform((size, size), Image.Transform.AFFINE, values, Image.Resampling.BICUBIC))
        )
    return np.stack(frames)


def _unit(angle: float) -> NDArray[np.float64]:
    return np.array([math.cos(angle), math.sin(angle)])


def _turned(angle: float) -> NDArray[np.float64]:
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]])
