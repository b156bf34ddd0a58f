"""From the bytes of one image file to pixels.

JPEG goes through simplejpeg where that is installed (libjpeg-turbo, bit for bit what Pillow decodes, 1.4 times as
fast); everything that it does not take, and every other format, goes through Pillow. Pictures come upright
(:mod:`foundation.modalities.image.orientation`), and those of more than 8 bits keep their contrast by a rule
(:mod:`foundation.modalities.image.deep`).
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Annotated, Any

from foundation.data import members
from foundation.errors import SampleError, UserError
from foundation.modalities.image.deep import RangeRule
from foundation.modalities.image.orientation import orientation_of, orientation_of_jpeg, turned
from foundation.ranges import Range, check

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

    from foundation.errors import Note
    from foundation.types import Sample

EXTENSIONS = (
    *("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "gif", "jp2", "avif"),
    *("jpe", "jfif", "mpo", "pnm", "dib", "apng", "j2k", "j2c", "jpx", "jpf"),
)
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
    upright: bool = True
    """Turn pictures as their EXIF says; false: leave them as they are stored."""
    range: RangeRule = "auto"
    """What becomes black and white in pictures of more than 8 bits; those of 8 bits stay as they are. ``auto``: whole
    numbers from 0 to the largest that the file says, else to the largest of as few bits (8, 10, 12, 14, 16, ...) as
    hold the picture; floats within 0 and 1 from 0 to 1; all others, and negative numbers, from the picture's own
    smallest to its largest. ``type``: what the file's type of number can be (floats: 0 to 1). ``data``: always the
    picture's own smallest and largest. Two numbers: these, for all pictures alike (Hounsfield: ``[-1000, 1000]``)."""

    def __post_init__(self) -> None:
        check(self, "decode")
        if isinstance(self.range, str) and self.range not in ("auto", "type", "data"):
            raise UserError(f"decode.range is {self.range!r}; choose auto, type, data or two numbers")
        if not isinstance(self.range, str) and self.range[0] == self.range[1]:
            raise UserError(f"decode.range is {list(self.range)}; the second number must be above the first")

    def build(self) -> Callable[[Mapping[str, Any]], Sample]:
        """The function from a raw sample to a sample."""
        return partial(decode, config=self)


def decode(raw: Mapping[str, Any], config: Config | None = None) -> Sample:
    """Decodes the image and the label of one sample.

    Args:
        raw: members of the sample by extension (bytes), with ``__key__``, ``__shard__`` and ``__id__``. An extension
            may have a prefix (``rgb.jpg``); the plain one is preferred.
        config: limits and rules; the defaults when absent.

    Returns:
        ``image``: uint8 [3, H, W] RGB, upright, whose memory is [H, W, 3] (channels last: what the resize is fast on),
        and ``label`` (a number, a name or several) where the sample has one, beside the ``__...__`` entries;
        ``__notes__`` where most of the range of a deep picture is lost.

    Raises:
        SampleError: reason ``missing`` (no image member), ``too_large``, ``truncated`` or ``decode``.
    """
    config = config or Config()
    shard, key = members.origin_of(raw)
    name = members.required(raw, config.member, EXTENSIONS, "image")
    import torch

    try:
        pixels, notes = read(raw[name], config)
    except _TooLargeError as error:
        raise SampleError(shard, key, "too_large", f"{name}: {error}") from None
    except Exception as error:  # Pillow's plug-ins raise almost any type on damaged files
        reason = "truncated" if _looks_truncated(error) else "decode"
        raise SampleError(shard, key, reason, f"{name} ({len(raw[name])} bytes): {error}") from error
    sample: Sample = {k: v for k, v in raw.items() if k.startswith("__")}
    sample["image"] = torch.from_numpy(pixels).permute(2, 0, 1)
    members.note(sample, *notes)
    members.put_label(sample, raw, config.label)
    return sample


def find_member(raw: Mapping[str, Any]) -> str | None:
    """Name of the image member of a raw sample, or None."""
    return members.find(raw, EXTENSIONS)


def decode_bytes(data: bytes, config: Config | None = None) -> Tensor:
    """Decodes one image file.

    Args:
        data: the file.
        config: limits and rules; the defaults when absent.

    Returns:
        uint8 [3, H, W], memory [H, W, 3].

    Raises:
        ValueError, OSError: not an image, too large or damaged.
    """
    import torch

    return torch.from_numpy(read(data, config or Config())[0]).permute(2, 0, 1)


def read(data: bytes, config: Config) -> tuple[np.ndarray, tuple[Note, ...]]:
    """Reads one image file.

    Args:
        data: the file.
        config: limits and rules.

    Returns:
        uint8 [H, W, 3], and what is worth knowing about it.

    Raises:
        ValueError, OSError: not an image, too large or damaged.
    """
    pixels = _decode_jpeg(data, config.max_pixels) if data[:2] == b"\xff\xd8" else None
    if pixels is None:
        return _decode_pillow(data, config)
    return (turned(pixels, orientation_of_jpeg(data)) if config.upright else pixels), ()


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
        ValueError: not such an image.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own bomb warning: the limit here is the recipe's
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=_formats())
        except Image.UnidentifiedImageError:
            kinds = ", ".join(name for name in _formats() if name not in ("MPO", "DIB"))
            raise ValueError(f"not a picture, or of a kind that is not read (read are {kinds})") from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def stored_size(data: bytes) -> tuple[int, int]:
    """Width and height of an upright picture, from its header.

    Raises:
        ValueError, OSError: not a picture.
    """
    with open_image(data) as image:
        width, height = image.size
        return (height, width) if orientation_of(image, data) >= 5 else (width, height)


def raw_range(data: bytes, max_pixels: int = Config.max_pixels) -> tuple[str, float, float] | None:
    """Type, smallest and largest number of a picture of more than 8 bits; None of any other.

    Raises:
        ValueError, OSError: not a picture, or one that cannot be read.
    """
    import numpy as np

    from foundation.modalities.image import deep

    with open_image(data) as image:
        if not deep.is_deep(image):
            return None
        _check_size(*image.size, max_pixels)
        values = deep.read(image, data).values
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    return (values.dtype.name, float(values.min()), float(values.max())) if values.size else None


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _decode_pillow(data: bytes, config: Config) -> tuple[np.ndarray, tuple[Note, ...]]:
    import numpy as np

    from foundation.modalities.image import deep

    with open_image(data) as image:
        _check_size(*image.size, config.max_pixels)
        stored = image.getexif().get(0x0112, 1) if image.format == "TIFF" else 1
        notes: tuple[Note, ...] = ()
        if deep.is_deep(image):
            pixels, notes = deep.to_bytes(deep.read(image, data), config.range)
        else:
            image.load()
            pixels = np.array(_to_rgb(image), dtype=np.uint8)
        if config.upright:
            return turned(pixels, orientation_of(image, data)), notes
        return turned(pixels, _BACK.get(stored, 1)), notes


_BACK = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
"""Pillow turns TIFF while it loads; what turns it back."""


def _to_rgb(image: Image) -> Image:
    """Any mode of 8 bits as RGB, alpha is dropped."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # without this step Pillow warns and guesses
    return image if image.mode == "RGB" else image.convert("RGB")


def _looks_truncated(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, EOFError) or any(word in text for word in ("truncated", "premature", "not enough", "eof"))
