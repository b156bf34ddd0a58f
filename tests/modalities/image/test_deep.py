"""Pictures of more than 8 bits keep their contrast by a stated rule."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from foundation.errors import SampleError, UserError
from foundation.modalities.image.decode import Config, decode, raw_range


def saved(array: np.ndarray, form: str = "TIFF", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, form, **options)
    return stream.getvalue()


def png16(values: np.ndarray, colour: int) -> bytes:
    """A PNG of 16 bits: colour 2 is RGB, 4 grey with alpha, 6 RGB with alpha (Pillow writes none of them)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff16_rgb(values: np.ndarray, order: str) -> bytes:
    """An uncompressed TIFF of 16-bit RGB."""
    height, width = values.shape[:2]
    data = values.astype(order + "u2").tobytes()
    entries = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, None), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, 8), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(data)),
    ]  # fmt: skip
    place = 8 + len(data)
    bits_at = place + 2 + 12 * len(entries) + 4
    body = struct.pack(order + "H", len(entries))
    for tag, kind, count, value in entries:
        body += struct.pack(order + "HHI", tag, kind, count)
        if value is None:
            body += struct.pack(order + "I", bits_at)
        else:
            body += struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "I", value)
    body += struct.pack(order + "I", 0) + struct.pack(order + "HHH", 16, 16, 16)
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", place) + data + body


def seen(data: bytes, **options) -> tuple[np.ndarray, str]:
    """[H, W, 3] as training sees it, and the notes."""
    sample = decode({"__key__": "k", "__shard__": "s", "tif": data}, Config(**options))
    notes = sample.get("__notes__", ())
    assert all(note.reason == "range" for note in notes)
    return sample["image"].permute(1, 2, 0).numpy(), "; ".join(note.detail for note in notes)


def levels(pixels: np.ndarray) -> int:
    return len(np.unique(pixels))


RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_few_bits_in_sixteen_keep_all_their_contrast(bits):
    values = np.rint(RAMP * ((1 << bits) - 1)).astype(np.uint16)
    for form in ("PNG", "TIFF"):
        pixels, notes = seen(saved(values, form))
        assert levels(pixels) == 256 and (pixels.min(), pixels.max()) == (0, 255) and not notes
        assert np.array_equal(pixels[..., 0], np.rint(values / ((1 << bits) - 1) * 255).astype(np.uint8))


def test_eight_bits_in_sixteen_are_what_they_say():
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    assert np.array_equal(seen(saved(values))[0][..., 0], values)


def test_where_the_rule_throws_the_range_away_the_sample_says_so():
    values = np.rint(RAMP * 4095).astype(np.uint16)
    pixels, notes = seen(saved(values), range="type")
    assert levels(pixels) == 17
    assert notes == (
        "17 of 4,096 levels are left: numbers from 0 to 4095 are taken in the range 0 to 65535; give decode.range"
    )
    assert "of its numbers lie outside" in seen(saved(values), range=(0.0, 1000.0))[1]
    hot = RAMP.astype(np.float32)
    hot[0, 0] = 1e6
    assert "levels are left" in seen(saved(hot))[1]


def test_floats_of_one_and_of_any_range():
    pixels, notes = seen(saved(RAMP.astype(np.float32)))
    assert np.array_equal(pixels[..., 1], np.rint(RAMP.astype(np.float32).astype(float) * 255)) and not notes
    heights = (RAMP * 3000 - 1000).astype(np.float32)
    pixels, notes = seen(saved(heights))
    assert levels(pixels) == 256 and (pixels[0, 0, 0], pixels[-1, -1, 0]) == (0, 255) and not notes


def test_one_range_for_all_pictures_is_the_users():
    dark, bright = (RAMP * 500).astype(np.float32), (RAMP * 1000).astype(np.float32)
    one, other = seen(saved(dark), range=(0.0, 1000.0))[0], seen(saved(bright), range=(0.0, 1000.0))[0]
    assert one.max() == 128 and other.max() == 255
    hounsfield = np.array([[-2000, -1000, 0, 1000, 3000]], dtype=np.int32)
    assert seen(saved(hounsfield), range=(-1000.0, 1000.0))[0][0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_negative_numbers_and_numbers_of_32_bits():
    values = np.rint(RAMP * 3000 - 1024).astype(np.int32)
    pixels, notes = seen(saved(values))
    assert levels(pixels) == 256 and pixels[0, 0, 0] == 0 and not notes
    assert levels(seen(saved(np.rint(RAMP * 1e6).astype(np.int32)))[0]) == 244  # 20 bits


def test_numbers_that_are_not_finite_are_black_and_said():
    values = RAMP.astype(np.float32) * 10
    values[:2], values[2, 0] = np.nan, np.inf
    pixels, notes = seen(saved(values))
    assert (pixels[:2] == 0).all() and pixels[2, 0, 0] == 0 and levels(pixels) > 240
    assert notes.startswith("129 of 4,096 numbers are not finite; they are taken for the lowest")
    with pytest.raises(SampleError, match="not one of its numbers is finite"):
        seen(saved(np.full((8, 8), np.nan, np.float32)))


def test_what_a_file_says_of_its_numbers_is_believed():
    from PIL import TiffImagePlugin

    values = np.rint(RAMP * 800).astype(np.uint16)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[281] = 1000  # MaxSampleValue
    assert seen(saved(values, tiffinfo=tags))[0].max() == 204
    measured = (RAMP * 100 + 5).astype(np.float32)
    measured[:8] = -9999
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[42113] = "-9999"  # GDAL's "no data"
    pixels, notes = seen(saved(measured, tiffinfo=tags))
    assert (pixels[:8] == 0).all() and levels(pixels) > 200 and not notes
    assert "levels are left" in seen(saved(measured))[1]


@pytest.mark.parametrize("kind", ["png rgb", "png grey alpha", "png rgb alpha", "tiff little", "tiff big"])
def test_deep_colours_keep_their_lower_bits(kind):
    values = np.random.default_rng(0).integers(0, 4096, (32, 32, 4)).astype(np.uint16)
    if kind.startswith("tiff"):
        data, wanted = tiff16_rgb(values[..., :3], "<" if kind == "tiff little" else ">"), values[..., :3]
    elif kind == "png grey alpha":
        data, wanted = png16(values[..., :2], 4), values[..., [0, 0, 0]]
    else:
        channels = 4 if "alpha" in kind else 3
        data, wanted = png16(values[..., :channels], 6 if channels == 4 else 2), values[..., :3]
    pixels, notes = seen(data)
    assert np.array_equal(pixels, np.rint(wanted / 4095 * 255).astype(np.uint8)) and not notes
    assert raw_range(data) == ("uint16", wanted.min(), wanted.max())


def test_netpbm_of_more_than_eight_bits_is_read_as_it_is():
    values = np.rint(RAMP * 4095).astype(">u2")
    for largest in (4095, 65535):
        grey = b"P5\n# 12 bits\n64 64\n%d\n" % largest + values.tobytes()
        colours = b"P6\n64 64\n%d\n" % largest + values[..., None].repeat(3, axis=2).tobytes()
        for data in (grey, colours):
            assert levels(seen(data)[0]) == 256 and raw_range(data) == ("uint16", 0, 4095)
        with pytest.raises(SampleError):
            seen(colours[:-5])


def test_eight_bits_have_no_range_and_need_no_rule():
    values = np.arange(100, dtype=np.uint8).reshape(10, 10)
    data = saved(values, "PNG")
    assert raw_range(data) is None
    assert np.array_equal(seen(data, range="data")[0], seen(data)[0])


def test_the_first_page_of_several_is_read():
    pages = [Image.fromarray(np.full((4, 4), value, np.uint16)) for value in (1000, 60000)]
    stream = io.BytesIO()
    pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:])
    assert (seen(stream.getvalue())[0] == round(1000 / 1023 * 255)).all()


@pytest.mark.parametrize("wrong", ["bright", (1.0, 1.0), (0.0, float("nan"))])
def test_a_range_that_cannot_be_is_refused(wrong):
    with pytest.raises(UserError, match=r"decode\.range"):
        Config(range=wrong)
