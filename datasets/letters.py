"""Letters scattered over a picture: which letter is it? Drawn by this file with Pillow's own font, so no download.

A picture shows one capital letter nine times, each time in another colour, size and thickness, turned any way and
stretched in any direction, on a dark ground with noise. Colours, places, turns and proportions say nothing about the
letter, and few pictures are labelled, so pixels, colours and HOG are far from it. Two crops of a picture show other
copies: they have the letter in common and nothing else, which is what an encoder can learn without labels.
"""

from __future__ import annotations

import argparse
import functools
import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundation.data import generated
from foundation.data.generated import Numbers
from foundation.errors import UserError
from foundation.ranges import Side, argument

CARD = {
    "title": "Scattered letters",
    "licence": "CC0-1.0 (the font, Aileron by Sora Sagano, is CC0 too)",
    "source": "drawn by this file with the font that Pillow carries",
    "citation": "none",
    "modality": "image",
    "splits": ["train", "test"],
    "layout": "jpg, cls",
    "size": "12 letters; 600 training and 1,200 test pictures of 64 x 64; 8 MB",
}
LETTERS = "AEFGHJKLMRTX"
ROWS = 3
"""Letters across and down a picture."""
GROUND = 30.0  # level of the ground, of 255
_TILE, _FONT = 128, 64  # pixels of the tile that a letter is drawn into once, and of the font


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the user can choose."""
    generated.add_arguments(parser, train=600, test=1200)
    parser.add_argument(
        "--size", type=argument(Side), default=64, help="width and height of a picture (default: %(default)s)"
    )


def classes(arguments: argparse.Namespace) -> list[str]:
    """The letters, by class number."""
    return list(LETTERS)


def samples(arguments: argparse.Namespace) -> Mapping[str, generated.Split]:
    """Pictures of both splits.

    Raises:
        UserError: an option cannot work.
    """
    if not 24 <= arguments.size <= 4096:
        raise UserError(f"letters: --size must lie in 24 to 4096 pixels, got {arguments.size}")

    def make(label: int, number: int, draw: Numbers, split: str) -> dict[str, bytes]:
        from PIL import Image

        out = io.BytesIO()
        Image.fromarray(picture(LETTERS[label], draw, arguments.size)).save(out, "JPEG", quality=95, subsampling=0)
        return {"jpg": out.getvalue()}

    return generated.samples("letters", arguments, list(LETTERS), make)


def picture(letter: str, draw: Numbers, size: int) -> NDArray[np.uint8]:
    """One letter, again and again; [size, size, 3].

    Args:
        letter: one of :data:`LETTERS`.
        draw: numbers of this picture.
        size: in pixels; it is drawn at twice the size and reduced.
    """
    from PIL import Image

    cell = 2 * size / ROWS
    box = int(1.5 * cell)  # a letter reaches into the cells beside its own
    canvas = np.full((2 * size + 2 * box, 2 * size + 2 * box, 3), GROUND)
    for index in range(ROWS * ROWS):
        centre = (np.array(divmod(index, ROWS)[::-1]) + 0.5) * cell
        centre = centre + cell * np.array([draw.between(-0.15, 0.15), draw.between(-0.15, 0.15)])
        corner = np.floor(centre - box / 2).astype(int)
        back = np.linalg.inv(shape(draw) * cell / (1.25 * _FONT))  # from the picture to the letter's tile
        offset = _TILE / 2 - back @ (centre - corner)
        rows = (*back[0], offset[0], *back[1], offset[1])
        drawn = tile(letter, draw.whole(5)).transform(
            (box, box), Image.Transform.AFFINE, rows, Image.Resampling.BILINEAR
        )
        cover = np.asarray(drawn, np.float64)[..., None] / 255
        colour = np.array([draw.between(60, 255) for _ in range(3)])
        part = canvas[corner[1] + box : corner[1] + 2 * box, corner[0] + box : corner[0] + 2 * box]
        part += (colour - part) * cover
    whole = Image.fromarray(canvas[box:-box, box:-box].round().astype(np.uint8))
    small = np.asarray(whole.resize((size, size), Image.Resampling.BOX), np.float64)
    noisy = small + 10.0 * draw.normal(small.size).reshape(small.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def shape(draw: Numbers) -> NDArray[np.float64]:
    """Turn, size and stretch of a letter: [2, 2], of about unit size."""

    def turn(angle: float) -> NDArray[np.float64]:
        return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])

    angle, axis = draw.between(0, 2 * math.pi), draw.between(0, 2 * math.pi)
    stretch, size = math.exp(draw.between(-0.5, 0.5)), draw.between(0.7, 1.15)
    return turn(axis) @ np.diag([stretch, 1 / stretch]) @ turn(angle - axis) * size


@functools.cache
def tile(letter: str, stroke: int) -> Any:
    """The letter, white on black in the middle of a tile; ``stroke`` pixels thicker than the font has it.

    Raises:
        UserError: Pillow was built without its font.
    """
    from PIL import Image, ImageDraw, ImageFont, features

    if not features.check("freetype2"):
        raise UserError("the data set 'letters' needs a Pillow with FreeType, as its wheels have it")
    drawn = Image.new("L", (_TILE, _TILE), 0)
    font = ImageFont.load_default(_FONT)
    ImageDraw.Draw(drawn).text((_TILE / 2, _TILE / 2), letter, font=font, fill=255, anchor="mm", stroke_width=stroke)
    return drawn
