"""Pictures whose numbers have more than 8 bits: what range of them becomes black to white.

Microscopes and scanners write 12 bits into 16, tomographs write negative numbers, satellites and height maps floats.
Pillow alone would clip all of them, or keep the upper 8 bits. Here the numbers are read as they are, and one rule that
the recipe names (``decode.range``) takes them to 0 to 255.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from foundation.errors import Note
from foundation.ranges import Range, Rising

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

_Level: TypeAlias = Annotated[float, Range(-1e18, 1e18)]
RangeRule: TypeAlias = Literal["auto", "type", "data"] | Annotated[tuple[_Level, _Level], Rising()]

_LEVELS = 64
"""Fewer grey levels than this, where the file has more, are worth a note."""

_BLOCK = 1 << 20  # numbers that are worked on at once
_LOOKED_AT = 1 << 18  # numbers of a picture whose distinct values are counted

_BITS, _PHOTOMETRIC, _FORMAT, _NO_DATA = 258, 262, 339, 42113  # tags of TIFF; the last one is GDAL's
_SAID_LOW, _SAID_HIGH = (340, 280), (341, 281)  # SMinSampleValue or MinSampleValue; the same for the largest


@dataclass(frozen=True)
class RawPicture:
    """The numbers of a picture as the file has them.

    Attributes:
        values: [H, W] or [H, W, 3].
        type_range: what numbers of this type can be; of floats (0, 1).
        said: what the file says that its numbers can be, where that is less than the type.
        inverted: the lowest number is white.
        no_data: a number that stands for "nothing was measured".
    """

    values: NDArray[Any]
    type_range: tuple[float, float]
    said: tuple[float, float] | None = None
    inverted: bool = False
    no_data: float | None = None


def is_deep(image: Image) -> bool:
    """Whether a picture that Pillow has opened, its pixels not loaded yet, has more than 8 bits."""
    lossy = (_raw_mode(image) or "").endswith(_LOSSY) or _largest_of_netpbm(image) > 255
    return image.mode.startswith("I") or image.mode == "F" or lossy


_LOSSY = ("RGB;16B", "RGB;16L", "RGB;16N", "RGBA;16B", "RGBA;16L", "RGBA;16N", "RGBX;16B", "RGBX;16L", "LA;16B")
"""Raw modes of which Pillow keeps the upper 8 bits."""


def read(image: Image, data: bytes) -> RawPicture:
    """The numbers of a deep picture.

    Args:
        image: opened by Pillow, its pixels not loaded yet.
        data: the file.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    import numpy as np

    if (largest := _largest_of_netpbm(image)) > 255:  # Pillow would stretch these, and cut colours to 8 bits
        channels = 3 if image.mode == "RGB" else 1
        count, offset = image.height * image.width * channels, image.tile[0][2]  # type: ignore[attr-defined]
        numbers = np.frombuffer(data, ">u2", count=count, offset=offset).astype(np.uint16)
        shape = (image.height, image.width, 3) if channels == 3 else (image.height, image.width)
        return RawPicture(numbers.reshape(shape), (0, 65535), (0, largest) if largest < 65535 else None)
    tags = _tags(image)
    inverted = _whole(tags.get(_PHOTOMETRIC)) == 0
    no_data = _no_data(tags.get(_NO_DATA))
    mode = _raw_mode(image) or ""
    if mode == "LA;16B":
        image._mode = "I"  # type: ignore[attr-defined]  # grey and alpha of a pixel as one number of 32 bits
        _set_raw_mode(image, "I;32B")
        return RawPicture((np.asarray(image).view(np.uint32) >> 16).astype(np.uint16), (0, 65535))
    if mode.endswith(_LOSSY):
        return RawPicture(_both_bytes(image, data, mode), (0, 65535), _said(tags, 16), no_data=no_data)
    values = np.asarray(image)
    if image.mode == "F":
        return RawPicture(values, (0.0, 1.0), None, inverted, no_data)
    bits, kind = _whole(tags.get(_BITS)) or (32 if image.mode == "I" and tags else 16), _whole(tags.get(_FORMAT)) or 1
    if image.mode == "I" and bits == 32 and kind == 1 and tags:
        values = values.view(np.uint32)
    if image.mode == "I" and not tags:  # PGM, whose numbers have 16 bits
        values = values.astype(np.uint16)
    limits = (-float(1 << bits - 1), float((1 << bits - 1) - 1)) if kind == 2 else (0.0, float((1 << bits) - 1))
    return RawPicture(values, limits, _said(tags, bits), inverted, no_data)


def to_bytes(picture: RawPicture, rule: RangeRule) -> tuple[NDArray[np.uint8], tuple[Note, ...]]:
    """Numbers of any size as 0 to 255.

    Args:
        picture: its numbers.
        rule: see ``decode.range``.

    Returns:
        uint8 [H, W, 3], and what is worth knowing: numbers that are not finite, or most of the range lost.

    Raises:
        ValueError: no number is finite.
    """
    import numpy as np

    lost, known, least, most = 0, 0, math.inf, -math.inf
    for rows in _blocks(picture.values):
        values, good, bad = _known(picture, rows)
        lost, known = lost + bad, known + int(good.sum())
        least = min(least, float(values.min(where=good, initial=math.inf)))
        most = max(most, float(values.max(where=good, initial=-math.inf)))
    if not known:
        raise ValueError("not one of its numbers is finite and measured")
    low, high = _limits(picture, rule, least, most)
    factor = 255.0 / (high - low) if high > low else 0.0
    pixels, outside = np.empty(picture.values.shape, np.uint8), 0
    for rows in _blocks(picture.values):
        values, good, _ = _known(picture, rows)
        outside += int(((values < low) | (values > high)).sum(where=good))
        values[~good] = low
        pixels[rows] = np.rint(((values - low) * factor).clip(0, 255))
    notes = []
    if lost:
        text = f"{lost:,} of {pixels.size:,} numbers are not finite; they are taken for the lowest"
        notes.append(Note("range", text))
    if said := _loss(picture, pixels, outside / known):
        text = f"{said}: numbers from {least:g} to {most:g} are taken in the range {low:g} to {high:g}"
        notes.append(Note("range", f"{text}; give decode.range"))
    if picture.inverted:
        pixels = 255 - pixels
    return (np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels), tuple(notes)


def _blocks(values: NDArray[Any]) -> Iterator[slice]:
    """Some rows after the other: float64 of a whole large picture would take eight times its bytes."""
    step = max(1, _BLOCK // max(1, values[0].size))
    return (slice(first, first + step) for first in range(0, len(values), step))


def _known(picture: RawPicture, rows: slice) -> tuple[NDArray[np.float64], NDArray[np.bool_], int]:
    """Rows as float64, which of their numbers were measured, and how many are not finite."""
    import numpy as np

    values = picture.values[rows].astype(np.float64)
    good = np.isfinite(values)
    bad = int(good.size - good.sum())
    if picture.no_data is not None:
        good &= values != picture.no_data
    return values, good, bad


def _limits(picture: RawPicture, rule: RangeRule, least: float, most: float) -> tuple[float, float]:
    """What becomes black and what becomes white."""
    if not isinstance(rule, str):
        return rule
    if rule == "type":
        return picture.said or picture.type_range
    if rule == "data":
        return least, most
    whole = picture.values.dtype.kind in "iu"
    if not whole:
        return (0.0, 1.0) if least >= 0 and most <= 1 else (least, most)
    if picture.said and picture.said[0] <= least and most <= picture.said[1]:
        return picture.said
    if least < 0:
        return least, most
    bits = max(8, int(most).bit_length())
    return 0.0, float((1 << bits + bits % 2) - 1)


def _loss(picture: RawPicture, pixels: NDArray[np.uint8], outside: float) -> str:
    """What of the range is lost; empty when it is not much."""
    import numpy as np

    if outside > 0.5:
        return f"{outside:.0%} of its numbers lie outside"
    left = np.count_nonzero(np.bincount(pixels.ravel(), minlength=256))
    if left >= _LEVELS:
        return ""
    flat = picture.values.ravel()
    distinct = len(np.unique(flat[:: max(1, flat.size // _LOOKED_AT)]))
    return f"{left} of {distinct:,} levels are left" if left < min(_LEVELS, distinct) else ""


def _both_bytes(image: Image, data: bytes, mode: str) -> NDArray[np.uint16]:
    """[H, W, 3] of 16 bits: Pillow keeps one byte of two, so the file is read once for each."""
    import numpy as np
    from PIL import Image as pillow

    upper = np.asarray(image.convert("RGB") if image.mode != "RGB" else image, dtype=np.uint16)
    native = "L" if sys.byteorder == "little" else "B"
    order = mode[-1].replace("N", native)
    with pillow.open(io.BytesIO(data), formats=(image.format,)) as again:  # type: ignore[arg-type]
        _set_raw_mode(again, mode[:-1] + ("B" if order == "L" else "L"))
        lower = np.asarray(again.convert("RGB") if again.mode != "RGB" else again, dtype=np.uint16)
    return (upper << 8 | lower).astype(np.uint16)


def _largest_of_netpbm(image: Image) -> int:
    """What the header of a binary PGM or PPM says to be white; 0 for any other picture."""
    tiles = getattr(image, "tile", None)  # only pictures that come from files have them
    return int(tiles[0][3][1]) if tiles and tiles[0][0] == "ppm" else 0


def _raw_mode(image: Image) -> str | None:
    """How Pillow would unpack the file's bytes."""
    tiles = getattr(image, "tile", None)  # only pictures that come from files have them
    if not tiles:
        return None
    arguments = tiles[0][3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else None


def _set_raw_mode(image: Image, mode: str) -> None:
    tiles = []
    for tile in image.tile:  # type: ignore[attr-defined]
        arguments = tile[3]
        tiles.append(tile._replace(args=(mode, *arguments[1:]) if isinstance(arguments, tuple) else mode))
    image.tile = tiles  # type: ignore[attr-defined]


def _tags(image: Image) -> dict[int, Any]:
    tags = getattr(image, "tag_v2", None)  # only TIFF has them
    return dict(tags) if tags is not None else {}


def _whole(value: Any) -> int | None:
    """The first number of a tag."""
    first = value[0] if isinstance(value, tuple) and value else value
    return int(first) if isinstance(first, (int, float)) and math.isfinite(first) else None


def _said(tags: dict[int, Any], bits: int) -> tuple[float, float] | None:
    """What the file says that its numbers can be: fewer bits than bytes hold, or the smallest and largest number."""
    high = next((found for tag in _SAID_HIGH if (found := _whole(tags.get(tag))) is not None), None)
    low = next((found for tag in _SAID_LOW if (found := _whole(tags.get(tag))) is not None), 0)
    if high is not None and low < high < (1 << bits) - 1:
        return float(low), float(high)
    return (0.0, float((1 << bits) - 1)) if bits % 8 else None


def _no_data(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None
