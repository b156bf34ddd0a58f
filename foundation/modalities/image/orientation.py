"""Which way up a picture is: the orientation that cameras write into EXIF (tag 0x0112), read without decoding."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

_TAG = 0x0112
_MOST_ENTRIES = 512  # a directory of a whole file has a few dozen


def orientation_of_jpeg(data: bytes) -> int:
    """Orientation of a JPEG file, 1 (upright) to 8; 1 where it says nothing, or nothing that can be read."""
    offset, end = 2, len(data) - 10
    while offset < end and data[offset] == 0xFF:
        marker = data[offset + 1]
        if marker == 0xFF:  # fill byte
            offset += 1
        elif marker == 0xDA:  # the scan begins
            break
        else:
            size = data[offset + 2] << 8 | data[offset + 3]
            if marker == 0xE1 and data[offset + 4 : offset + 10] == b"Exif\0\0":
                return _of_exif(data[offset + 10 : offset + 2 + size])
            offset += 2 + size
    return 1


def orientation_of(image: Image, data: bytes) -> int:
    """Orientation of any picture that Pillow has opened, 1 to 8; 1 for TIFF, which Pillow turns by itself."""
    if data[:2] == b"\xff\xd8":
        return orientation_of_jpeg(data)
    if image.format == "TIFF":
        return 1
    try:
        value = image.getexif().get(_TAG, 1)
    except Exception:  # damaged EXIF raises almost anything, and says nothing of the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _of_exif(block: bytes) -> int:
    """From the TIFF structure of an EXIF segment."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 10:
        return 1
    try:
        (offset,) = struct.unpack_from(order + "I", block, 4)
        (entries,) = struct.unpack_from(order + "H", block, offset)
        for number in range(min(entries, _MOST_ENTRIES)):
            tag, kind = struct.unpack_from(order + "HH", block, offset + 2 + 12 * number)
            if tag == _TAG:
                form = {3: "H", 4: "I"}.get(kind)
                value = struct.unpack_from(order + form, block, offset + 10 + 12 * number)[0] if form else 1
                return value if 1 <= value <= 8 else 1
    except struct.error:  # cut off, or an offset that leads out of it
        pass
    return 1


def turned(pixels: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, Any]:
    """Pixels as the picture is meant to be seen.

    Args:
        pixels: [H, W, 3] as stored.
        orientation: 1 to 8; from 5 on height and width change places.

    Returns:
        [H, W, 3], contiguous.
    """

    if orientation == 1:
        return pixels
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
