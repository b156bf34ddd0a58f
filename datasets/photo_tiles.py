"""Patches of real photographs that need no download, under random light: where in which photograph is this?

Two photographs of scikit-learn and one that lies beside this file are cut into tiles; a sample is a small window of a
tile, at a random place (of three the one with most contrast) and size, mirrored or not, turned by quarters, under a
random colour cast, exposure and contrast and with its colour channels in any order. The class is the tile. Raw pixels,
the colours of cells and HOG change with place, turn and light; features that ignore these, but keep texture and
structure, say more. Test windows come from a band of each tile that no training window touches.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foundation import counter
from foundation.errors import UserError
from foundation.ranges import CountOrNone, Seed, Share, Side, argument

if TYPE_CHECKING:
    from numpy.typing import NDArray

DESCRIPTION = "write patches of photographs as shards"
CARD = {
    "title": "Photo tiles",
    "licence": "china.jpg and flower.jpg: CC BY 2.0; grace_hopper.jpg: public domain (US Navy)",
    "source": "scikit-learn's load_sample_images; grace_hopper.jpg, as matplotlib's sample data have it",
    "citation": "'Summer Palace' by Pere Ubu, 'dahlia' by dany13, Grace Hopper by James S. Davis (US Navy)",
    "modality": "image",
    "splits": ["train", "test"],
    "layout": "jpg, cls",
    "size": "18 tiles; 4,000 training and 1,200 test patches; about 16 MB",
}
_TRIES = 3  # places of which a patch takes the one with most contrast: a black corner says nothing
_NUMBERS = 13 + 2 * (_TRIES - 1)  # random numbers of one patch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the user can choose."""
    parser.add_argument(
        "--size", type=argument(Side), default=32, help="width and height of a patch (default: %(default)s)"
    )
    parser.add_argument(
        "--train", type=argument(CountOrNone), default=4000, help="training patches (default: %(default)s)"
    )
    parser.add_argument("--test", type=argument(CountOrNone), default=1200, help="test patches (default: %(default)s)")
    parser.add_argument(
        "--light", type=argument(Share), default=0.5, help="how much the light changes, 0 to 1 (default: %(default)s)"
    )
    parser.add_argument("--seed", type=argument(Seed), default=0, help="of places and light (default: %(default)s)")


def photographs() -> dict[str, NDArray[np.uint8]]:
    """Photographs by name, [H, W, 3].

    Raises:
        UserError: scikit-learn is missing.
    """
    try:
        from PIL import Image
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        raise UserError(f"the data set 'photo_tiles' needs scikit-learn: {error}") from error
    hopper = Path(__file__).with_name("grace_hopper.jpg")
    return {
        "china": load_sample_image("china.jpg"),
        "flower": load_sample_image("flower.jpg"),
        "hopper": np.asarray(Image.open(hopper).convert("RGB")),
    }


_GRID = (2, 3)  # rows and columns of tiles in each photograph


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the tiles, by class number."""
    rows, columns = _GRID
    return [
        f"{name} {row}-{column}"
        for name in ("china", "flower", "hopper")
        for row in range(rows)
        for column in range(columns)
    ]


def samples(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """Patches of both splits.

    Raises:
        UserError: an option cannot work.
    """
    if arguments.size < 8 or min(arguments.train, arguments.test) < 1 or not 0 <= arguments.light <= 1:
        raise UserError("photo_tiles: --size must be at least 8, --train and --test at least 1, --light in [0, 1]")
    parts = [tile for photo in photographs().values() for tile in tiles(photo)]
    return {split: _Split(arguments, parts, split, getattr(arguments, split)) for split in ("train", "test")}


def tiles(photo: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The parts of a photograph, row by row."""
    rows, columns = _GRID
    return [part for band in np.array_split(photo, rows, axis=0) for part in np.array_split(band, columns, axis=1)]


class _Split:
    """Sized and re-readable, so that a progress bar knows the end."""

    def __init__(self, arguments: argparse.Namespace, tiles: list[NDArray[np.uint8]], split: str, count: int) -> None:
        self.arguments, self.tiles, self.split, self.count = arguments, tiles, split, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        from PIL import Image

        a = self.arguments
        numbers = counter.uniform(a.seed, 0, np.arange(self.count), f"photo_tiles.{self.split}", _NUMBERS)
        for index, random in enumerate(numbers):
            label = index % len(self.tiles)
            tile = self.tiles[label]
            own = band(tile, self.split, random[11])
            side = min(round(a.size * (0.8 + 0.8 * random[0])), own.shape[0])
            corners = np.concatenate([random[1:3], random[13:]]).reshape(_TRIES, 2) * (
                np.array(own.shape[:2]) - side + 1
            )
            patches = [own[top : top + side, left : left + side] for top, left in corners.astype(int)]
            patch = max(patches, key=np.std)
            patch = patch[:, ::-1] if random[3] < 0.5 else patch
            patch = np.rot90(patch, int(4 * random[12]))
            pixels = np.asarray(Image.fromarray(patch).resize((a.size, a.size), Image.Resampling.BICUBIC), np.float64)
            buffer = io.BytesIO()
            Image.fromarray(light(pixels, random[4:12], a.light)).save(buffer, "JPEG", quality=95, subsampling=0)
            key = f"{self.split}-{index:05d}"
            yield {"__key__": key, "jpg": buffer.getvalue(), "cls": str(label).encode()}


def band(tile: NDArray[np.uint8], split: str, random: float) -> NDArray[np.uint8]:
    """What a split may use of a tile: the middle quarter for testing, what lies above or below to train."""
    above, below = (int(tile.shape[0] * share) for share in (0.375, 0.625))
    if split == "test":
        return tile[above:below]
    return tile[:above] if random < 0.5 else tile[below:]


def light(pixels: NDArray[np.float64], random: NDArray[np.float64], strength: float) -> NDArray[np.uint8]:
    """A colour cast (gain of each channel), an exposure (gamma) and a contrast, and one of the six channel orders."""
    gains = 1 + strength * (2 * random[:3] - 1)
    gamma = 2.0 ** (strength * 2 * (2 * random[3] - 1))
    contrast = 1 + strength * (2 * random[4] - 1)
    order = np.argsort(random[5:8]) if strength > 0 else np.arange(3)
    lit = 255 * (np.clip(pixels[..., order] * gains, 0, 255) / 255) ** gamma
    return np.clip(lit.mean() + contrast * (lit - lit.mean()), 0, 255).round().astype(np.uint8)
