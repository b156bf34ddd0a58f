"""Pictures that are none, or odd, or too much."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from foundation.data.shards import open_shards
from foundation.data.stream import iterate_samples
from foundation.modalities.image.decode import decode
from tests.faults.conftest import found_by, good, picture, read_all


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, content: bytes = b"") -> bytes:
    """A PNG whose header claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(content or bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def jpeg(**options: object) -> bytes:
    return picture(3, "JPEG", (64, 80), **options)


def no_pixels() -> bytes:
    data = bytearray(jpeg())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = bytes(4)
    return bytes(data)


BAD = {
    "wrong bytes": (lambda: b"GIF? no, just words " * 9, "decode"),
    "nothing": (lambda: b"", "decode"),
    "no pixels": (no_pixels, "decode"),
    "no pixels in PNG": (lambda: png(0, 0), "decode"),
    "cut": (lambda: jpeg()[:-400], "truncated"),
    "script": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "decode"),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param("wrong bytes", marks=pytest.mark.fault(19, "text in a .jpg")),
        pytest.param("nothing", marks=pytest.mark.fault(19, "a .jpg of zero bytes")),
        pytest.param("no pixels", marks=pytest.mark.fault(19, "JPEG of 0 x 0 pixels")),
        pytest.param("no pixels in PNG", marks=pytest.mark.fault(19, "PNG of 0 x 0 pixels")),
        pytest.param("cut", marks=pytest.mark.fault(19, "JPEG that ends too early")),
        pytest.param(
            "script", marks=pytest.mark.fault(19, "PostScript in a .jpg, which Pillow would hand to Ghostscript")
        ),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_bad_pictures_are_skipped_named_and_counted(shard, verified, happened, case, workers):
    make, reason = BAD[case]
    path = shard([*good(5), ("s005.jpg", make()), ("s005.cls", b"1")], indexed=True)
    read = read_all(path, workers=workers)
    assert read.skipped == {reason: 1} and read.keys == [f"s{n:03d}" for n in range(5)]
    (message,) = read.messages
    assert path.name in message and "s005" in message and "jpg" in message
    if not workers:
        ((name, key, _, _),) = found_by(verified(path, decode="image"), reason)
        assert (name, key) == (path.name, "s005")
        assert not verified(path).errors
    happened(f"skipped, counted as {reason}, naming shard and key; verify --decode finds it")


def grey16() -> bytes:
    return encode(Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)), "PNG")


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    return encode(Image.fromarray(np.zeros((10, 30, 3), np.uint8)), "JPEG", exif=exif)


ODD: dict[str, tuple[Callable[[], bytes], tuple[int, int]]] = {
    "one pixel": (lambda: encode(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG"), (1, 1)),
    "cmyk": (lambda: encode(Image.new("CMYK", (12, 10), (0, 255, 255, 0)), "JPEG", quality=95), (10, 12)),
    "16 bit": (grey16, (16, 16)),
    "exif": (turned, (30, 10)),
    "broken exif": (lambda: jpeg(exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(range(200))), (64, 80)),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param("one pixel", marks=pytest.mark.fault(19, "picture of 1 x 1 pixel")),
        pytest.param("cmyk", marks=pytest.mark.fault(19, "JPEG in CMYK")),
        pytest.param("16 bit", marks=pytest.mark.fault(19, "PNG of 16 bits")),
        pytest.param("exif", marks=pytest.mark.fault(19, "JPEG that EXIF says to turn")),
        pytest.param("broken exif", marks=pytest.mark.fault(19, "JPEG with damaged EXIF")),
    ],
)
def test_odd_pictures_are_used(shard, verified, happened, case):
    make, (height, width) = ODD[case]
    path = shard([("s000.jpg", make())])
    (sample,) = iterate_samples(open_shards(path), decode)
    image = sample["image"]
    assert image.dtype == torch.uint8 and tuple(image.shape) == (3, height, width)
    if case == "16 bit":
        assert image[0].flatten().tolist() == list(range(256))
    if case == "cmyk":
        red, green, blue = (int(image[c].float().mean()) for c in range(3))
        assert red > 150 and green < 60 and blue < 60
    assert not verified(path, decode="image").errors
    happened("used as RGB" + {"16 bit": ", scaled to 8 bits", "exif": ", turned upright"}.get(case, ""))


@pytest.mark.slow
@pytest.mark.fault(20, "PNG of 60,000 x 60,000 pixels in 200 bytes")
def test_a_decompression_bomb_is_refused_by_its_header(shard, verified, happened):
    path = shard([*good(2), ("s002.png", png(60_000, 60_000))], indexed=True)
    program = f"""
import resource
from tests.faults.conftest import read_all
read_all({str(path)!r})
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (400 << 20),) * 2)
read = read_all({str(path)!r})
print(dict(read.skipped), read.keys, read.messages[0])
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "{'too_large': 1} ['s000', 's001']" in result.stdout and "s002" in result.stdout
    assert "60000 x 60000 pixels are more than max_pixels" in result.stdout
    ((_, key, _, _),) = found_by(verified(path, decode="image"), "too_large")
    assert key == "s002"
    happened("skipped as too_large by its header, within 400 MB of memory (10 GB unpacked)")


@pytest.mark.fault(20, "PNG whose compressed data unpacks to far more than its header says")
def test_a_bomb_in_the_pixel_data(shard, happened):
    path = shard([*good(2), ("s002.png", png(8, 8, bytes(64 << 20)))])
    read = read_all(path)
    assert read.keys[:2] == ["s000", "s001"]
    assert read.skipped.total() + len(read.keys) == 3
    happened("only as many rows as the header says are unpacked")


LABELS = {
    "10**30": ("cls", b"1" + b"0" * 30),
    "1e400": ("json", b'{"label": 1e400}'),
    "below 0": ("cls", b"-3"),
    "mapping": ("json", b'{"label": {"cat": 1}}'),
    "no JSON": ("json", b'{"label": '),
    "nothing": ("cls", b""),
    "control characters": ("cls", b"cat\x1b[2J"),
}


@pytest.mark.fault(19, "labels that are none: 10**30, 1e400, negative, a mapping, damaged JSON, nothing")
def test_what_cannot_be_a_label_leaves_a_sample_without_one(shard, verified, happened):
    members = [(f"t{n}.{part}", data) for n, (kind, label) in enumerate(LABELS.values()) for part, data in
               (("png", picture(n)), (kind, label))]  # fmt: skip
    path = shard([*good(2), *members])
    assert read_all(path).keys == ["s000", "s001", *(f"t{n}" for n in range(len(LABELS)))]
    samples = {sample["__key__"]: sample for sample in iterate_samples(open_shards(path), decode)}
    assert [key for key, sample in samples.items() if "label" in sample] == ["s000", "s001"]
    found = verified(path, decode="image")
    assert not found.errors and found.warnings["label"] == len(LABELS)
    assert "1e+30 is no class number" in found_by(found, "label")[0][3]
    happened("the sample is used without a label; verify --decode warns, naming shard, key and what stands there")


def test_names_and_several_labels_stay_what_they_are(shard):
    given = [("cls", b"cat\n"), ("json", b'{"label": [0, "dog"]}'), ("json", b'{"label": "7"}'), ("cls", b"0012")]
    path = shard([m for n, (kind, data) in enumerate(given) for m in ((f"{n}.png", picture()), (f"{n}.{kind}", data))])
    labels = [sample["label"] for sample in iterate_samples(open_shards(path), decode)]
    assert labels == ["cat", [0, "dog"], 7, 12]
