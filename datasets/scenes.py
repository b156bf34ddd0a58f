"""Objects in front of photographs, with what is true of every pixel: what it shows, how far it is, which object it is.

A picture shows one to four objects before a window of a photograph, turned, lit and coloured at random, nearer ones in
front of farther ones. The kind of an object is its form and the pattern on it; its colours say nothing. Things are the
smaller and the paler the farther they are, and the ground runs from the camera below to the distance above. All labels
follow from how the picture is drawn: ``seg.png`` (0 the background, 1 to 5 the kinds), ``depth.npy`` (metres),
``boxes.json`` (what is seen of each object). Test pictures stand before parts of the photographs that no training
picture shows.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foundation.data import generated
from foundation.data.build import load
from foundation.data.generated import Numbers
from foundation.errors import UserError
from foundation.ranges import Side, argument

CARD = {
    "title": "Scenes: objects in front of photographs, with labels of every pixel",
    "licence": "china.jpg and flower.jpg: CC BY 2.0; grace_hopper.jpg: public domain (US Navy)",
    "source": "scikit-learn's load_sample_images; grace_hopper.jpg, as matplotlib's sample data have it",
    "citation": "'Summer Palace' by Pere Ubu, 'dahlia' by dany13, Grace Hopper by James S. Davis (US Navy)",
    "modality": "image",
    "splits": ["train", "test"],
    "layout": "jpg, cls (kind of the nearest object), seg.png, depth.npy (float16, m), boxes.json",
    "size": "5 kinds; 800 + 300 pictures of 96 x 96, 35 MB",
}
KINDS = ("striped disc", "dotted square", "chequered triangle", "smooth ring", "speckled cross")
NEAR, FAR = 1.0, 8.0
"""Metres: the nearest object, and the top of the background."""
_TRIES = 16  # places of which an object takes the one that is freest

Plane = NDArray[np.float64]
"""[H, W]."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    generated.add_arguments(parser, train=800, test=300)
    parser.add_argument(
        "--size", type=argument(Side), default=96, help="width and height, pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--objects", type=argument(Side), default=3, help="most objects in a picture (default: %(default)s)"
    )


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the kinds, by class number; in ``seg.png`` they are one more."""
    return list(KINDS)


def samples(arguments: argparse.Namespace) -> Mapping[str, generated.Split]:
    """Pictures of both splits.

    Raises:
        UserError: an option cannot work, or scikit-learn is missing.
    """
    if not 32 <= arguments.size <= 512 or arguments.objects > 20:
        raise UserError("scenes: --size must lie in 32 to 512, --objects in 1 to 20")
    grounds = {split: backgrounds(split) for split in ("train", "test")}

    def make(label: int, number: int, draw: Numbers, split: str) -> dict[str, bytes]:
        from PIL import Image

        kinds = [label, *(draw.whole(len(KINDS)) for _ in range(draw.whole(arguments.objects)))]
        scene = still(grounds[split], kinds, draw, arguments.size)
        picture, labels, depth = io.BytesIO(), io.BytesIO(), io.BytesIO()
        Image.fromarray(scene.pixels).save(picture, "JPEG", quality=95, subsampling=0)
        Image.fromarray(scene.labels).save(labels, "PNG")
        np.save(depth, scene.depth.astype(np.float16))
        facts = {"height": arguments.size, "width": arguments.size, "boxes": boxes(scene.instances)}
        return {
            "jpg": picture.getvalue(),
            "seg.png": labels.getvalue(),
            "depth.npy": depth.getvalue(),
            "boxes.json": json.dumps(facts).encode(),
        }

    return generated.samples("scenes", arguments, KINDS, make)


def backgrounds(split: str) -> list[NDArray[np.uint8]]:
    """What a split may show of the photographs: the left five eighths to train, the rest to test, [H, W, 3]."""
    photos = load("photo_tiles").module.photographs().values()
    return [
        photo[:, : photo.shape[1] * 5 // 8] if split == "train" else photo[:, photo.shape[1] * 5 // 8 :]
        for photo in photos
    ]


@dataclass(frozen=True)
class Thing:
    """An object.

    Attributes:
        kind: number of it.
        x: of its middle, in shares of the picture's side; ``y`` likewise.
        y: downwards.
        radius: in shares of the side.
        angle: that it is turned by.
        depth: metres.
        colours: [2, 3] of its pattern, in [0, 1].
        pitch: of its pattern, cells across the object.
        phase: of its pattern, [2].
        grain: seed of the speckles.
    """

    kind: int
    x: float
    y: float
    radius: float
    angle: float
    depth: float
    colours: NDArray[np.float64]
    pitch: float
    phase: NDArray[np.float64]
    grain: int


@dataclass(frozen=True)
class Scene:
    """A picture and what is true of its pixels.

    Attributes:
        pixels: uint8 [H, W, 3].
        labels: uint8 [H, W], 0 the background, else the kind + 1.
        depth: [H, W] metres.
        instances: uint8 [H, W], 0 the background, else the place of the object + 1.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    depth: Plane
    instances: NDArray[np.uint8]


def still(grounds: Sequence[NDArray[np.uint8]], kinds: Sequence[int], draw: Numbers, size: int) -> Scene:
    """One picture.

    Args:
        grounds: of :func:`backgrounds`.
        kinds: of its objects; the first is the nearest.
        draw: numbers of the picture.
        size: of its side.
    """
    return render(window(grounds, draw, size), things(kinds, draw), draw.ratio(0.7, 1.4))


def window(grounds: Sequence[NDArray[np.uint8]], draw: Numbers, size: int) -> NDArray[np.float64]:
    """A square piece of a photograph, mirrored or not, with its channels in any order: [size, size, 3] in [0, 1]."""
    from PIL import Image

    photo = grounds[draw.whole(len(grounds))]
    side = min(round(size * draw.ratio(1.0, 2.5)), *photo.shape[:2])
    top, left = (draw.whole(length - side + 1) for length in photo.shape[:2])
    piece = photo[top : top + side, left : left + side]
    piece = piece[:, ::-1] if draw.sign() > 0 else piece
    order = np.argsort(draw.many(3))
    return np.asarray(Image.fromarray(piece).resize((size, size), Image.Resampling.BOX), np.float64)[..., order] / 255


def things(kinds: Sequence[int], draw: Numbers) -> list[Thing]:
    """Objects, the nearest first; each at the freest of some places."""
    depths = np.sort([draw.ratio(NEAR, 0.6 * FAR) for _ in kinds])
    found: list[Thing] = []
    for kind, depth in zip(kinds, depths.tolist(), strict=True):
        radius = 0.28 * draw.between(0.85, 1.15) / depth**0.5
        places = radius + (1 - 2 * radius) * draw.many(2 * _TRIES).reshape(-1, 2)
        free = [min((math.hypot(x - t.x, y - t.y) - t.radius for t in found), default=0.0) for x, y in places]
        x, y = places[int(np.argmax(free))]
        dark, bright = draw.many(3) * 0.55, 0.45 + draw.many(3) * 0.55
        colours = np.stack([dark, bright] if draw.sign() > 0 else [bright, dark])
        phase, grain = draw.many(2), draw.whole(1 << 30)
        angle, pitch = draw.between(0, 2 * math.pi), draw.between(3.0, 5.0)
        found.append(Thing(kind, float(x), float(y), radius, angle, depth, colours, pitch, phase, grain))
    return found


def render(ground: NDArray[np.float64], things: Sequence[Thing], light: float) -> Scene:
    """The picture of some objects, and the labels of its pixels.

    Args:
        ground: [H, W, 3] behind them, in [0, 1].
        things: the nearest first.
        light: exponent of the exposure.
    """
    size = len(ground)
    rows, columns = (np.mgrid[0:size, 0:size] + 0.5) / size
    depth = FAR + (0.7 * FAR - FAR) * rows
    picture = hazy(ground, depth)
    labels, instances = np.zeros((2, size, size), np.uint8)
    for place in reversed(range(len(things))):
        thing = things[place]
        along, across = columns - thing.x, rows - thing.y
        cosine, sine = math.cos(thing.angle), math.sin(thing.angle)
        x = (cosine * along + sine * across) / thing.radius
        y = (cosine * across - sine * along) / thing.radius
        outside = form(thing.kind, x, y)  # about the distance to its edge, in radii
        cover = (0.5 - outside * thing.radius * size).clip(0, 1)[..., None]
        share = pattern(thing, x, y)[..., None]
        skin = thing.colours[0] * (1 - share) + thing.colours[1] * share
        shade = (1.0 - 0.25 * (x * cosine - y * sine + 1).clip(0, 2) / 2)[..., None]
        picture = picture * (1 - cover) + hazy(skin * shade, np.full_like(depth, thing.depth)) * cover
        inside = outside < 0
        labels[inside], instances[inside] = thing.kind + 1, place + 1
        depth = np.where(inside, thing.depth, depth)
    pixels = (255 * picture.clip(0, 1) ** light).round().astype(np.uint8)
    return Scene(pixels, labels, depth, instances)


def hazy(colours: NDArray[np.float64], depth: Plane) -> NDArray[np.float64]:
    """Colours [H, W, 3] as they look from afar: the paler the farther."""
    share = (1 - np.exp(-depth / (1.5 * FAR)))[..., None]
    return colours * (1 - share) + 0.75 * share


def form(kind: int, x: Plane, y: Plane) -> Plane:
    """About how far places lie outside of the form of a kind (below 0: inside); its radius is 1."""
    name = KINDS[kind].split()[1]
    if name == "disc":
        return np.hypot(x, y) - 1
    if name == "square":
        return np.maximum(abs(x), abs(y)) - 0.8
    if name == "triangle":
        sides = [math.cos(a) * x + math.sin(a) * y for a in (math.pi / 2, math.pi * 7 / 6, math.pi * 11 / 6)]
        return np.maximum.reduce(sides) - 0.55
    if name == "ring":
        return abs(np.hypot(x, y) - 0.72) - 0.28
    bars = np.maximum(abs(x) - 0.33, abs(y) - 1), np.maximum(abs(x) - 1, abs(y) - 0.33)
    return np.minimum(*bars)


def pattern(thing: Thing, x: Plane, y: Plane) -> Plane:
    """Share of the second colour in [0, 1] at places of an object."""
    name = KINDS[thing.kind].split()[0]
    u, v = x * thing.pitch / 2 + thing.phase[0], y * thing.pitch / 2 + thing.phase[1]
    if name == "striped":
        return (u % 1 < 0.5).astype(np.float64)
    if name == "dotted":
        return (np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.3).astype(np.float64)
    if name == "chequered":
        return ((u % 1 < 0.5) != (v % 1 < 0.5)).astype(np.float64)
    if name == "smooth":
        return ((x + 1) / 2).clip(0, 1)
    speckles = np.random.default_rng(thing.grain).random((64, 64)) < 0.4
    places = [((part + 2) / 4 * 64).clip(0, 63).astype(int) for part in (y, x)]
    return speckles[places[0], places[1]].astype(np.float64)


def boxes(instances: NDArray[np.uint8]) -> list[list[int]]:
    """(left, top, right, bottom) of what is seen of each object, pixels, the last two exclusive."""
    found = []
    for number in np.unique(instances[instances > 0]):
        rows, columns = np.nonzero(instances == number)
        found.append([int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1])
    return found
