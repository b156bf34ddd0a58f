"""From the bytes of one image file to pixels.

JPEG goes through simplejpeg where that is installed (libjpeg-turbo, bit for bit what Pillow decodes, 1.4 times as
fast); everything that it does not take, and every other format, goes through Pillow.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Annotated, Any

from foundation.errors import SampleError
from foundation.modalities import members
from foundation.ranges import Range, check

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

    from foundation.types import Sample

EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "gif", "jp2", "avif")
"""Members that count as the image of a sample, in the order in which they are looked for."""

_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "TIFF", "PPM", "GIF", "JPEG2000", "AVIF")
# Pillow goes by content, not by name, and some of its formats start other programs (EPS: Ghostscript).


@dataclass(frozen=True, kw_only=True)
class Config:
    """How image files become pixels."""

    max_pixels: Annotated[int, Range(1, 2**31 - 1)] = 64_000_000
    """Images with more pixels (height x width, read from the header) are refused before they are decoded."""
    member: str | None = None
    """The image's member, such as ``jpg`` or ``rgb.jpg``; None: the first with an image's extension. Name it where a
    sample has other pictures too, or a depth image may stand in for a photograph that is missing."""
    label: str = "label"
    """Key of the class number in a sample's ``json`` member, used where it has no ``cls`` member."""

    def __post_init__(self) -> None:
        check(self, "decode")

    def build(self) -> Callable[[Mapping[str, Any]], Sample]:
        """The function from a raw sample to a sample."""
        return partial(decode, config=self)


def decode(raw: Mapping[str, Any], config: Config | None = None) -> Sample:
    """Decodes the image and the label of one sample.

    Args:
        raw: members of the sample by extension (bytes), with ``__key__``, ``__shard__`` and ``__id__``. An extension
            may have a prefix (``rgb.jpg``); the plain one is preferred.
        config: limits; the defaults when absent.

    Returns:
        ``image``: uint8 [3, H, W] RGB whose memory is [H, W, 3] (channels last: what the resize is fast on), and
        ``label`` (int) where the sample has one, beside the ``__...__`` entries.

    Raises:
        SampleError: reason ``missing`` (no image member), ``too_large``, ``truncated`` or ``decode``.
    """
    config = config or Config()
    shard, key = members.place_of(raw)
    name = members.required(raw, config.member, EXTENSIONS, "image")
    try:
        image = decode_bytes(raw[name], config.max_pixels)
    except _TooLargeError as error:
        raise SampleError(shard, key, "too_large", f"{name}: {error}") from None
    except Exception as error:  # Pillow's plug-ins raise almost any type on damaged files
        reason = "truncated" if _looks_truncated(error) else "decode"
        raise SampleError(shard, key, reason, f"{name} ({len(raw[name])} bytes): {error}") from error
    sample: Sample = {k: v for k, v in raw.items() if k.startswith("__")}
    sample["image"] = image
    label = members.label(raw, config.label)
    if label is not None:
        sample["label"] = label
    return sample


def find_member(raw: Mapping[str, Any]) -> str | None:
    """Name of the image member of a raw sample, or None."""
    return members.find(raw, EXTENSIONS)


def decode_bytes(data: bytes, max_pixels: int = Config.max_pixels) -> Tensor:
    """Decodes one image file.

    Args:
        data: the file.
        max_pixels: more pixels than this are refused.

    Returns:
        uint8 [3, H, W], memory [H, W, 3].

    Raises:
        ValueError, OSError: not an image, too large or damaged.
    """
    import torch

    pixels = _decode_jpeg(data, max_pixels) if data[:2] == b"\xff\xd8" else None
    if pixels is None:
        pixels = _decode_pillow(data, max_pixels)
    return torch.from_numpy(pixels).permute(2, 0, 1)


class _TooLargeError(ValueError):
    pass


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"the image has no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise _TooLargeError(f"{width} x {height} pixels are more than max_pixels = {max_pixels}")


@lru_cache(maxsize=1)
def _simplejpeg() -> Any:
    try:
        import simplejpeg
    except Exception:  # an optional accelerator: absent, or a wheel that does not fit this machine
        return None
    return simplejpeg


def _decode_jpeg(data: bytes, max_pixels: int) -> np.ndarray | None:
    """[H, W, 3] uint8, or None where Pillow must decide (other colour spaces, damage, no simplejpeg)."""
    library = _simplejpeg()
    if library is None:
        return None
    try:
        height, width, space, _ = library.decode_jpeg_header(data, strict=True)
    except ValueError:
        return None
    _check_size(width, height, max_pixels)
    if space not in ("YCbCr", "Gray"):
        return None
    try:
        return library.decode_jpeg(data, "RGB", strict=True)
    except ValueError:
        return None


def open_image(data: bytes) -> Image:
    """Opens one image file with Pillow, its pixels not decoded yet, if it is of a format that can be trusted.

    Raises:
        OSError: not such an image.
    """
    from PIL import Image

    return Image.open(io.BytesIO(data), formats=_formats())


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _decode_pillow(data: bytes, max_pixels: int) -> np.ndarray:
    import numpy as np
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own bomb warning: the limit here is the recipe's
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with open_image(data) as image:
                _check_size(*image.size, max_pixels)
                image.load()
                return np.array(_to_rgb(image), dtype=np.uint8)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _to_rgb(image: Image) -> Image:
    """Any mode as RGB; 16-bit greys are scaled (Pillow alone would clip them), alpha is dropped."""
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        grey = np.asarray(image, dtype=np.float64)
        if image.mode != "F":  # integer greys of more than 8 bits hold 16 in practice (PNG, TIFF, PGM)
            grey = grey / 257.0
        image = Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8), "L")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # without this step Pillow warns and guesses
    return image if image.mode == "RGB" else image.convert("RGB")


def _looks_truncated(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, EOFError) or any(word in text for word in ("truncated", "premature", "not enough", "eof"))
