"""Scanned handwritten digits on cluttered colour canvases: real data that scikit-learn carries, so no download.

Each 8 x 8 scan is enlarged and placed at a random position, size, colour and polarity on a coloured background with
strokes, blobs, pieces of other digits and noise. Raw pixels say little about the class then, while features that
ignore position, size and colour say nearly all. Scans of the test split never occur in the training split, not even as
clutter.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from foundation import counter
from foundation.errors import UserError
from foundation.ranges import CountOrNone, PositiveShare, Seed, Share, Side, argument

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

CARD = {
    "title": "Digits on clutter",
    "licence": "CC BY 4.0",
    "source": "scikit-learn's load_digits, a copy of the test set of UCI 'Optical Recognition of Handwritten Digits'",
    "citation": "E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998, doi 10.24432/C50P49",
    "modality": "image",
    "splits": ["train", "test"],
    "layout": "jpg (or png), cls",
    "size": "5,748 + 1,080 pictures, 25 MB",
}
_SPLIT_SEED = 0  # the split must not move with --seed, or models of different seeds would see each other's test scans
_STROKES, _BLOBS = 6, 3


class _Random:
    """Hands out the numbers of one image, one after the other, so that the code reads like the drawing it makes."""

    def __init__(self, numbers: NDArray[np.float64]) -> None:
        self._numbers = iter(numbers.tolist())

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * next(self._numbers)

    def colour(self) -> NDArray[np.float64]:
        return np.array([self.between(0, 255) for _ in range(3)])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the user can choose."""
    parser.add_argument(
        "--canvas", type=argument(Side), default=32, help="width and height in pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--scale",
        type=argument(PositiveShare),
        nargs=2,
        default=(0.55, 0.85),
        metavar=("MIN", "MAX"),
        help="width of the scan as a share of the canvas (default: 0.55 0.85)",
    )
    parser.add_argument(
        "--clutter", type=argument(Share), default=0.5, help="0 = none, 1 = a lot (default: %(default)s)"
    )
    parser.add_argument(
        "--copies",
        type=argument(CountOrNone),
        default=4,
        help="placements of each training scan (default: %(default)s)",
    )
    parser.add_argument(
        "--test-copies",
        type=argument(CountOrNone),
        default=3,
        help="placements of each test scan (default: %(default)s)",
    )
    parser.add_argument("--format", choices=("jpg", "png"), default="jpg", help="jpg has quality 95 (default: jpg)")
    parser.add_argument(
        "--seed", type=argument(Seed), default=0, help="of the placements; the split never moves (default: 0)"
    )


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the labels, in order."""
    return [str(digit) for digit in range(10)]


def split_scans(number: int) -> dict[str, NDArray[np.int64]]:
    """Which scans belong to which split: four fifths to train.

    Args:
        number: of scans.

    Returns:
        Scan numbers by split.
    """
    order = counter.permutation(_SPLIT_SEED, 0, 0, "digits.split", number)
    cut = number * 4 // 5
    return {"train": order[:cut], "test": order[cut:]}


def samples(arguments: argparse.Namespace) -> Mapping[str, Iterator[dict[str, Any]]]:
    """The splits, drawn while they are read.

    Raises:
        UserError: an option cannot work, or scikit-learn is missing.
    """
    low, high = arguments.scale
    if not 0.2 <= low <= high <= 1.0:
        raise UserError(f"--scale {low} {high}: give two shares of the canvas, 0.2 <= MIN <= MAX <= 1")
    if arguments.canvas < 16:
        raise UserError(f"--canvas {arguments.canvas}: must be at least 16 pixels")
    if arguments.copies < 1 or arguments.test_copies < 1:
        raise UserError("--copies and --test-copies must be at least 1")
    if not 0 <= arguments.clutter <= 1:
        raise UserError(f"--clutter {arguments.clutter}: must be between 0 and 1")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError("the data set 'digits' comes with scikit-learn: pip install scikit-learn") from error
    scans, labels = load_digits(return_X_y=True)
    scans = scans.reshape(-1, 8, 8) / 16.0
    splits = split_scans(len(scans))
    copies = {"train": arguments.copies, "test": arguments.test_copies}
    return {split: _Split(arguments, scans, labels, rows, split, copies[split]) for split, rows in splits.items()}  # type: ignore[misc]


class _Split:
    """Sized and re-readable, so that a progress bar knows the end."""

    def __init__(
        self, arguments: argparse.Namespace, scans: Any, labels: Any, rows: Any, split: str, copies: int
    ) -> None:
        self.arguments, self.scans, self.labels = arguments, scans, labels
        self.rows, self.split, self.copies = rows, split, copies

    def __len__(self) -> int:
        return len(self.rows) * self.copies

    def __iter__(self) -> Iterator[dict[str, Any]]:
        a = self.arguments
        for copy in range(self.copies):
            numbers = counter.uniform(a.seed, copy, self.rows, "digits.place", 160)
            for scan, random in zip(self.rows.tolist(), numbers, strict=True):
                image = _draw(self.scans, scan, self.rows, _Random(random), a.canvas, a.scale, a.clutter)
                yield {
                    "__key__": f"{self.split}-{scan:04d}-{copy}",
                    a.format: _encode(image, a.format),
                    "cls": str(int(self.labels[scan])).encode(),
                }


def _draw(
    scans: NDArray[np.float64],
    scan: int,
    neighbours: NDArray[np.int64],
    random: _Random,
    canvas: int,
    scale: tuple[float, float],
    clutter: float,
) -> Image.Image:
    from PIL import Image, ImageDraw

    first, second = random.colour(), random.colour()
    second = first + 0.5 * (second - first)  # a mild gradient: the digit must stay legible on all of it
    angle = random.between(0, 2 * np.pi)
    axis = np.linspace(-0.5, 0.5, canvas)
    ramp = np.clip(0.5 + np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None], 0, 1)[..., None]
    background = first * (1 - ramp) + second * ramp
    picture = Image.fromarray(background.astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(round(_BLOBS * clutter)):
        x, y, width, height = (random.between(-0.2, 1) * canvas for _ in range(4))
        colour = 0.5 * (first + random.colour())
        draw.ellipse((x, y, x + abs(width) / 2 + 2, y + abs(height) / 2 + 2), fill=tuple(colour.astype(int).tolist()))
    for _ in range(round(_STROKES * clutter)):
        ends = [random.between(-0.1, 1.1) * canvas for _ in range(4)]
        thickness = int(random.between(1, 1 + canvas / 20))
        draw.line(ends, fill=tuple(random.colour().astype(int).tolist()), width=thickness)
    pixels = np.asarray(picture, dtype=np.float64)
    for _ in range(round(4 * clutter)):
        pixels = _piece_of_another(pixels, scans, neighbours, random, canvas)

    ink = _contrasting(first * 0.5 + second * 0.5, random)
    size = round(random.between(*scale) * canvas)
    left, top = (round(random.between(0, canvas - size)) for _ in range(2))
    pixels = _blend(pixels, _enlarge(scans[scan], size), ink, left, top)
    noise = counter.uniform(int(random.between(0, 2**31)), 0, scan, "digits.noise", canvas * canvas * 3)
    pixels = pixels + 50 * clutter * (noise.reshape(canvas, canvas, 3) - 0.5)
    return Image.fromarray(np.clip(pixels, 0, 255).round().astype(np.uint8))


def _piece_of_another(
    pixels: NDArray[np.float64],
    scans: NDArray[np.float64],
    neighbours: NDArray[np.int64],
    random: _Random,
    canvas: int,
) -> NDArray[np.float64]:
    other = scans[neighbours[int(random.between(0, len(neighbours)))]]
    row, column = (int(random.between(0, 5)) for _ in range(2))
    piece = other[row : row + 4, column : column + 4]
    size = max(3, round(random.between(0.15, 0.35) * canvas))
    left, top = (round(random.between(0, canvas - size)) for _ in range(2))
    return _blend(pixels, _enlarge(piece, size), random.colour(), left, top)


def _contrasting(background: NDArray[np.float64], random: _Random) -> NDArray[np.float64]:
    """A random ink whose brightness stands off from the background's, darker or lighter."""
    weights = np.array([0.299, 0.587, 0.114])
    candidates = [random.colour() for _ in range(6)]
    distances = [abs(float(weights @ (colour - background))) for colour in candidates]
    for colour, distance in zip(candidates, distances, strict=True):
        if distance >= 90:
            return colour
    best = candidates[int(np.argmax(distances))]
    shift = 100 if weights @ background < 128 else -100
    return np.clip(best + shift, 0, 255)


def _enlarge(scan: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    from PIL import Image

    image = Image.fromarray((scan * 255).astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float64) / 255


def _blend(
    pixels: NDArray[np.float64], alpha: NDArray[np.float64], ink: NDArray[np.float64], left: int, top: int
) -> NDArray[np.float64]:
    pixels = pixels.copy()
    window = pixels[top : top + alpha.shape[0], left : left + alpha.shape[1]]
    window += alpha[..., None] * (ink - window)
    return pixels


def _encode(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "jpg":
        image.save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
