"""Pictures that are in memory as the files that the decoder reads, so that one set of rules holds for both."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from foundation.errors import UserError


def members(value: Any, rate: float | None = None) -> dict[str, bytes]:
    """A picture as the member of a sample; nothing of it is lost.

    Args:
        value: ``PIL.Image.Image``, whose EXIF still says how it is turned, or an array uint8 or uint16 [H, W],
            [H, W, 1] or [H, W, 3], RGB.
        rate: not used.

    Raises:
        UserError: it is none of these.
    """
    from PIL import Image

    if not isinstance(value, Image.Image):
        value = _of_array(value)
    if 0 in value.size:
        raise UserError(f"a picture of {value.width} x {value.height} pixels has nothing to look at")
    if value.mode == "F":
        return {"tif": _saved(value, "TIFF")}
    exif = value.getexif()
    if value.mode not in ("1", "L", "LA", "I;16", "P", "RGB", "RGBA"):
        value = value.convert("LA" if value.mode == "La" else "RGB")
    return {"png": _saved(value, "PNG", compress_level=0, exif=exif)}


def _of_array(value: Any) -> Any:
    from PIL import Image

    array = np.asarray(value)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    colour = array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8
    grey = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    if 0 in array.shape or not (colour or grey):
        raise UserError(
            f"an array {list(array.shape)} of {array.dtype} is no picture: give uint8 [height, width, 3] (RGB, 0 to "
            "255), or uint8 or uint16 [height, width]"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _saved(image: Any, form: str, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue()
