"""Bytes to pixels: every colour mode, every kind of damage."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from foundation.errors import SampleError, UserError
from foundation.modalities.image import decode as module
from foundation.modalities.image.decode import Config, decode


def encode(image: Image.Image, extension: str, **options) -> dict:
    buffer = io.BytesIO()
    image.save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(extension, extension.upper()), **options)
    return raw(buffer.getvalue(), extension)


def raw(data: bytes, extension: str = "jpg") -> dict:
    return {"__key__": "k7", "__shard__": "s.tar", "__id__": 7, extension: data}


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, *shape[2:]), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


def check_rgb(sample: dict, height: int, width: int) -> np.ndarray:
    image = sample["image"]
    assert image.dtype == torch.uint8 and tuple(image.shape) == (3, height, width)
    assert image.stride() == (1, 3 * width, 3)  # memory is [H, W, 3]
    return image.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "bmp", "tif", "ppm"])
def test_formats_equal_pillow(extension):
    data = encode(Image.fromarray(noise((37, 50, 3))), extension)
    pixels = check_rgb(decode(data), 37, 50)
    assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(data[extension])).convert("RGB")))


@pytest.mark.parametrize(
    "options", [{"quality": 95, "subsampling": 0}, {"quality": 60, "subsampling": 2}, {"progressive": True}]
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_equals_pillow_bit_for_bit(mode, options):
    data = encode(Image.fromarray(noise((61, 83, 3))).convert(mode), "jpg", **options)
    pixels = check_rgb(decode(data), 61, 83)
    assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(data["jpg"])).convert("RGB")))


def test_real_photos_equal_pillow(shared_data):
    with tarfile.open(shared_data("photos") / "photos-000000.tar") as tar:
        names = [m for m in tar if m.name.endswith(".jpg")][:12]
        for member in names:
            data = tar.extractfile(member).read()
            expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            assert np.array_equal(decode(raw(data))["image"].permute(1, 2, 0).numpy(), expected), member.name


def test_without_simplejpeg(monkeypatch):
    data = encode(Image.fromarray(noise((20, 30, 3))), "jpg")
    with_it = decode(data)["image"]
    monkeypatch.setattr(module, "_simplejpeg", lambda: None)
    assert torch.equal(decode(data)["image"], with_it)


def test_sixteen_bit_is_scaled_not_clipped():
    levels = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    for extension in ("png", "tif"):
        pixels = check_rgb(decode(encode(Image.fromarray(levels), extension)), 16, 16)
        assert np.array_equal(pixels[..., 0].ravel(), np.arange(256))


def test_palette_grey_alpha_and_one_pixel():
    colours = Image.fromarray(noise((16, 16, 3)))
    palette = colours.quantize(16)
    assert np.array_equal(check_rgb(decode(encode(palette, "png")), 16, 16), np.asarray(palette.convert("RGB")))
    grey = Image.fromarray(noise((9, 5, 3))).convert("L")
    pixels = check_rgb(decode(encode(grey, "png")), 9, 5)
    assert np.array_equal(pixels, np.repeat(np.asarray(grey)[..., None], 3, 2))
    alpha = colours.convert("RGBA")
    assert np.array_equal(check_rgb(decode(encode(alpha, "png")), 16, 16), np.asarray(colours))
    assert check_rgb(decode(encode(Image.new("RGB", (1, 1), (1, 2, 3)), "png")), 1, 1).tolist() == [[[1, 2, 3]]]
    check_rgb(decode(encode(colours.convert("1"), "png")), 16, 16)


def failure(data: dict, config: Config | None = None) -> SampleError:
    with pytest.raises(SampleError) as caught:
        decode(data, config)
    error = caught.value
    assert (error.shard, error.key) == ("s.tar", "k7") and "s.tar" in str(error) and "k7" in str(error)
    return error


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif", "bmp"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_files_never_pass(extension, share):
    data = encode(Image.fromarray(noise((120, 160, 3))), extension)
    data[extension] = data[extension][: int(len(data[extension]) * share)]
    assert failure(data).reason in ("truncated", "decode")


def test_truncated_jpeg_and_png_are_called_truncated():
    for extension in ("jpg", "png"):
        data = encode(Image.fromarray(noise((120, 160, 3))), extension)
        data[extension] = data[extension][: len(data[extension]) // 2]
        assert failure(data).reason == "truncated"


def test_garbage_empty_and_missing():
    assert failure(raw(b"not an image at all")).reason == "decode"
    assert failure(raw(b"")).reason == "decode"
    assert failure(raw(b"\xff\xd8\xff\xe0" + bytes(40))).reason in ("decode", "truncated")
    error = failure(raw(b"...", "wav"))
    assert error.reason == "missing" and "wav" in error.detail


def test_bomb_is_refused_by_its_header():
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )
    error = failure(raw(data, "png"))
    assert error.reason == "too_large" and "60000" in error.detail
    jpeg = encode(Image.fromarray(noise((40, 50, 3))), "jpg")
    assert failure(jpeg, Config(max_pixels=1999)).reason == "too_large"
    assert decode(jpeg, Config(max_pixels=2000))["image"].shape == (3, 40, 50)


def test_a_wrong_extension_and_a_prefix_still_decode():
    png = encode(Image.fromarray(noise((8, 8, 3))), "png")["png"]
    assert decode(raw(png, "jpg"))["image"].shape == (3, 8, 8)
    assert decode(raw(png, "rgb.png"))["image"].shape == (3, 8, 8)


def test_labels():
    data = encode(Image.fromarray(noise((8, 8, 3))), "png")
    assert "label" not in decode(data)
    assert decode({**data, "cls": b"17"})["label"] == 17
    assert decode({**data, "json": json.dumps({"label": 3}).encode()})["label"] == 3
    assert decode({**data, "json": json.dumps({"kind": 3}).encode()}, Config(label="kind"))["label"] == 3
    assert decode({**data, "cls": b" cat\n"})["label"] == "cat"
    sample = decode({**data, "cls": b"1"})
    assert (sample["__key__"], sample["__shard__"], sample["__id__"]) == ("k7", "s.tar", 7)


def test_config_says_what_is_wrong():
    with pytest.raises(UserError, match="max_pixels"):
        Config(max_pixels=0)
