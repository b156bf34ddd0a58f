"""Containers of every kind: the same frames in the same order, wherever in the file they are asked for."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from foundation.errors import SampleError
from foundation.modalities.video import decode
from foundation.modalities.video.decode import CONTAINERS, Config
from tests.modalities.video.conftest import encode, numbers, raw

av = pytest.importorskip("av")

PLENTY = {"qmin": "1", "qmax": "3", "b": "20M"}


def film(container: str, codec: str, b_frames: int = 2, pixels: str = "yuv420p", **options: str) -> bytes:
    """20 frames at 25 per second, a key frame every 6; frame i is grey of level 10 + 10 i."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        more = {} if "264" in codec or codec == "gif" else PLENTY
        stream = file.add_stream(codec, rate=25, options={"g": "6", "bf": str(b_frames), **more, **options})
        stream.height, stream.width, stream.pix_fmt = 96, 128, pixels
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((96, 128, 3), 10 + 10 * number, np.uint8), format="rgb24")
            frame.pts = number
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return buffer.getvalue()


def read(data: bytes, **settings: Any) -> dict[str, Any]:
    return decode.decode(raw(mp4=data), Config(**settings))


CASES = {
    "ts": ("mpegts", "libx264", 2),
    "m2ts": ("mpegts", "mpeg2video", 2),
    "mpg": ("mpeg", "mpeg2video", 2),
    "vob": ("vob", "mpeg1video", 2),
    "avi": ("avi", "libx264", 2),  # its stamps follow the order of the file, not that of the frames
    "avi, MPEG-4": ("avi", "mpeg4", 2),
    "avi, MJPEG": ("avi", "mjpeg", 0),
    "wmv": ("asf", "wmv2", 0),
    "asf": ("asf", "libx264", 2),
    "flv": ("flv", "libx264", 2),
    "mxf": ("mxf", "mpeg2video", 2),
    "gif": ("gif", "gif", 0),
    "h264": ("h264", "libx264", 2),
    "3gp": ("3gp", "libx264", 2),
    "mkv": ("matroska", "libx264", 2),
    "mp4": ("mp4", "libx264", 2),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.fault(
    19, "films with B-frames in containers whose seeking is not exact, or whose stamps do not tell the order"
)
def test_frames_are_the_same_in_every_container(name, happened):
    assert name.partition(",")[0] in CONTAINERS
    pixels = {"gif": "rgb8", "avi, MJPEG": "yuvj420p"}.get(name, "yuv420p")
    data = film(*CASES[name], pixels=pixels)
    whole = read(data)
    assert numbers(whole["video"]) == list(range(20))
    np.testing.assert_allclose(whole["video_times"], np.arange(20) / 25, atol=1e-3)
    part = read(data, max_frames=6)
    assert numbers(part["video"]) == list(range(7, 13)) and (part["video"] == whole["video"][7:13]).all()
    assert numbers(read(data, max_frames=4, rate=12.5)["video"]) == [7, 9, 11, 13]
    happened("all frames, in order, in the whole film and in a part of it")


@pytest.mark.fault(16, "a broadcast recorded from the middle of a group of pictures on")
def test_a_broadcast_may_begin_anywhere(happened):
    data = film("mpegts", "libx264", g="10")
    packets = [data[i : i + 188] for i in range(0, len(data), 188)]
    with av.open(io.BytesIO(data)) as file:
        places = [packet.pos for packet in file.demux(file.streams.video[0]) if packet.size]
    cut = b"".join(packets[:3] + packets[places[4] // 188 :])  # tables, then pictures that lean on lost ones
    shown = numbers(read(cut)["video"])
    assert shown == list(range(shown[0], 20)) and shown[0] == 10
    happened("read from its first key frame on")


def _remuxed(path: Any, *films: bytes, cover: bool = False) -> bytes:
    """Films side by side in one Matroska file, behind a cover."""
    picture = av.VideoFrame.from_ndarray(np.full((320, 320, 3), 90, np.uint8), format="rgb24")
    with av.open(str(path), "w") as out:
        covers = []
        if cover:
            stream = out.add_stream("mjpeg", rate=25)
            stream.width, stream.height, stream.pix_fmt = 320, 320, "yuvj420p"
            stream.disposition = av.stream.Disposition.attached_pic
            covers = [stream]
        sources = [av.open(io.BytesIO(data)) for data in films]
        targets = [out.add_stream_from_template(source.streams.video[0]) for source in sources]
        for stream in covers:
            out.mux([*stream.encode(picture.reformat(format="yuvj420p")), *stream.encode()])
        for source, target in zip(sources, targets, strict=True):
            for packet in source.demux(source.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = target
                    out.mux(packet)
            source.close()
    return path.read_bytes()


@pytest.mark.fault(19, "a film behind a cover picture, a cover without a film, two films in one file")
def test_covers_are_no_films_and_the_longest_film_counts(tmp_path, happened):
    ten, twenty = encode(np.arange(10) / 25), encode(np.arange(20) / 25)
    for name in ("cover.mkv", "cover.mp4"):
        behind = read(_remuxed(tmp_path / name, twenty, cover=True))
        assert numbers(behind["video"]) == list(range(20)) and "__notes__" not in behind
    with pytest.raises(SampleError, match=r"missing: .*only a picture attached to it"):
        read(_remuxed(tmp_path / "only.mp4", cover=True))
    both = read(_remuxed(tmp_path / "both.mkv", ten, twenty))
    assert numbers(both["video"]) == list(range(20))
    (note,) = both["__notes__"]
    assert note.reason == "conflict" and "2 video tracks (0.4 s, 0.8 s): track 1 is read" in note.detail
    happened("the longest film is read and said; a cover alone is refused as missing")


def coloured(pixels: str, full: bool, matrix: int, transfer: int = 2) -> bytes:
    """Four frames of one colour: (200, 60, 30)."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, pixels
        context = stream.codec_context
        context.color_range, context.colorspace, context.color_trc = 2 if full else 1, matrix, transfer
        for _ in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), (200, 60, 30), np.uint8), format="rgb24")
            frame = frame.reformat(format=pixels, dst_colorspace=matrix, dst_color_range=2 if full else 1)
            frame.color_range, frame.colorspace = 2 if full else 1, matrix
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return buffer.getvalue()


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 5])
def test_colours_are_the_same_in_every_range_matrix_and_depth(pixels, full, matrix):
    sample = read(coloured(pixels, full, matrix))
    assert np.abs(sample["video"][1, :, 30, 30].numpy().astype(int) - (200, 60, 30)).max() <= 3
    notes = [note.detail for note in sample.get("__notes__", ())]
    assert notes == (["10 bits of brightness become 8"] if "10" in pixels else [])


def test_high_dynamic_range_is_said():
    (note,) = read(coloured("yuv420p10le", False, 9, transfer=18))["__notes__"]
    assert note.reason == "range" and "HLG, 10 bits" in note.detail


def test_films_of_one_frame_of_odd_sizes_and_of_a_late_start():
    one = read(encode([0.0], size=(33, 47), codec="mpeg4", container="mov"), min_frames=1)
    assert tuple(one["video"].shape) == (1, 3, 33, 47)
    late = read(encode(7.0 + np.arange(6) / 10, container="matroska"))
    assert late["video_times"][0] == 0 and late["video_end"] == pytest.approx(0.6, abs=2e-3)


def test_the_facts_of_a_file_are_those_of_the_film_that_is_read(tmp_path):
    from foundation.modalities.video.pyav import every_frame, facts

    data = _remuxed(tmp_path / "cover.mkv", encode(np.arange(20) / 25), cover=True)
    assert facts(data) == {"codec": "h264", "width": 48, "height": 32, "fps": 25.0, "seconds": 0.8}
    for name in ("avi", "ts", "mp4"):
        shown = list(every_frame(film(*CASES[name])))
        assert [round((frame.to_ndarray(format="rgb24").mean() - 10) / 10) for _, frame in shown] == list(range(20))
        np.testing.assert_allclose([seconds for seconds, _ in shown], np.arange(20) / 25, atol=1e-3)
