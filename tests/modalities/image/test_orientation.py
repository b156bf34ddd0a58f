"""Pictures come upright, whatever road their bytes take."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from foundation.modalities.image import decode as module
from foundation.modalities.image.decode import Config, decode, stored_size
from foundation.modalities.image.picture import of_raw

STORED = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)


def oriented(form: str, orientation: int, mode: str = "RGB") -> bytes:
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    Image.fromarray(STORED).convert(mode).save(stream, form, exif=exif, **options)
    return stream.getvalue()


def upright(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def decoded(data: bytes, config: Config | None = None) -> np.ndarray:
    return decode({"__key__": "k", "__shard__": "s", "jpg": data}, config)["image"].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_of_each_format_is_turned_as_pillow_turns_it(orientation):
    for form in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        data = oriented(form, orientation)
        assert np.array_equal(decoded(data), upright(data)), form
        height, width = upright(data).shape[:2]
        assert stored_size(data) == (width, height), form
    data = oriented("JPEG", orientation, "CMYK")
    assert np.array_equal(decoded(data), upright(data))


def test_without_simplejpeg_a_picture_is_turned_alike(monkeypatch):
    data = oriented("JPEG", 6)
    fast = decoded(data)
    monkeypatch.setattr(module, "_simplejpeg", lambda: None)
    assert np.array_equal(decoded(data), fast) and fast.shape == (80, 48, 3)


def test_a_recipe_can_leave_pictures_as_they_are_stored():
    for form in ("JPEG", "PNG", "TIFF", "AVIF"):
        for orientation in (2, 5, 6, 8):
            data = oriented(form, orientation)
            assert decoded(data, Config(upright=False)).shape == (48, 80, 3), form
    assert np.array_equal(decoded(oriented("TIFF", 6), Config(upright=False)), STORED)


def test_a_contact_sheet_shows_a_picture_upright():
    data = oriented("JPEG", 8)
    assert np.array_equal(of_raw({"__key__": "k", "__shard__": "s", "jpg": data}), upright(data))


@pytest.mark.parametrize("cut", [12, 20, 30])
def test_damaged_exif_leaves_the_picture_as_stored(cut):
    data = bytearray(oriented("JPEG", 6))
    place = data.index(b"Exif\0\0")
    data[place + 10 : place + cut] = b"\xff" * (cut - 10)
    assert decoded(bytes(data)).shape in ((48, 80, 3), (80, 48, 3))


def test_both_byte_orders_of_exif_are_read():
    block = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    plain = io.BytesIO()
    Image.fromarray(STORED).save(plain, "JPEG")
    segment = b"Exif\0\0" + block
    data = plain.getvalue()
    data = data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]
    assert decoded(data).shape == (80, 48, 3)
