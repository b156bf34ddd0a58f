"""Video files: real containers, time stamps, rotation, spans, and everything that is damaged."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foundation.errors import REASONS, SampleError, UserError
from foundation.modalities.video import decode
from foundation.modalities.video.decode import Config
from foundation.modalities.video.selection import frames_at
from tests.modalities.video.conftest import draws, encode, numbers, raw

pytest.importorskip("av")


def read(data: bytes, name: str = "mp4", **settings: Any) -> dict[str, Any]:
    return decode.decode(raw(**{name: data}), Config(**settings))


def reason(data: bytes, name: str = "mp4", **settings: Any) -> SampleError:
    with pytest.raises(SampleError) as caught:
        read(data, name, **settings)
    assert caught.value.reason in REASONS and "s.tar" in str(caught.value) and "'k'" in str(caught.value)
    return caught.value


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


# What a file says


@pytest.mark.parametrize(
    ("container", "codec", "name"),
    [
        ("mp4", "libx264", "mp4"),
        ("webm", "libvpx-vp9", "webm"),
        ("matroska", "libx264", "mkv"),
        ("mov", "mpeg4", "mov"),
    ],
)
def test_containers_and_codecs_give_the_frames_and_their_times(container, codec, name):
    sample = read(encode(np.arange(12) / 10, container, codec), name)
    video = sample["video"]
    assert video.dtype.is_signed is False and tuple(video.shape) == (12, 3, 32, 48)
    assert video.permute(0, 2, 3, 1).is_contiguous() and numbers(video) == list(range(12))
    np.testing.assert_allclose(sample["video_times"], np.arange(12) / 10, atol=1e-3)
    assert sample["video_rate"] == pytest.approx(10, rel=1e-2) and sample["video_end"] == pytest.approx(1.2, abs=2e-3)


def test_variable_frame_rates_go_by_time_stamps():
    times = [0.0, 0.1, 0.2, 0.9, 1.0, 1.9, 2.0]  # what is shown from 0.2 to 0.9 s is frame 2
    sample = read(encode(times), rate=4.0)
    assert numbers(sample["video"]) == [1, 2, 4]  # shown at 0.125, 0.375, ... 1.875 s: 1, 2, 2, 2, 4, 4, 4, 4
    np.testing.assert_allclose(sample["video_times"], [0.1, 0.2, 1.0], atol=1e-3)


def test_a_rate_above_the_files_repeats_no_frame(mp4):
    assert numbers(read(mp4, rate=40.0)["video"]) == list(range(20))
    assert len(read(mp4, rate=5.0)["video"]) == 10


def test_frames_between_time_stamps():
    times = np.array([0.0, 0.04, 0.08])
    assert frames_at(times, np.array([-1.0, 0.0, 0.0399, 0.04, 0.079, 0.5])).tolist() == [0, 0, 0, 1, 1, 2]


def test_rotated_files_stand_upright(shared_data):
    """Four real files whose display matrix says 0, 90, 180 and 270 degrees."""
    from foundation.data.shards import open_shards

    shards = open_shards([str(shared_data("video_files") / "container-*.tar")])
    found = {}
    for number in range(shards.num_samples):
        sample = shards.read(*shards.locate(number))
        if sample["__key__"].startswith("rotate"):
            degrees = json.loads(sample["json"])["rotation_metadata"]
            found[degrees] = sample
            video = decode.decode(sample)["video"]
            plain = _without_rotation(sample["mov"])
            turned = np.rot90(plain, {0: 0, 90: -1, 180: 2, 270: 1}[degrees], axes=(1, 2))
            upright = video.permute(0, 2, 3, 1).numpy()
            assert upright.shape == turned.shape and (upright.shape[1] > upright.shape[2]) == (degrees in (90, 270))
            assert np.abs(upright.astype(int) - turned).mean() < 1.0
    assert sorted(found) == [0, 90, 180, 270]


def _without_rotation(data: bytes) -> np.ndarray:
    """Frames as they are stored, reduced to 256 rows."""
    import av

    with av.open(io.BytesIO(data)) as file:
        frames = list(file.decode(video=0))
    height, width = frames[0].height, frames[0].width
    size = {"height": 256, "width": round(width * 256 / height)}
    return np.stack([f.to_ndarray(format="rgb24", interpolation="AREA", **size) for f in frames])


def test_real_files_of_all_kinds(shared_data):
    from foundation.data.shards import open_shards

    shapes = {}
    for pattern in ("video_files/container-*.tar", "video_files/gopro-*.tar", "rgb_imu_clips/train-*.tar"):
        folder, file = pattern.split("/")
        shards = open_shards([str(shared_data(folder) / file)])
        for number in range(shards.num_samples):
            sample = decode.decode(
                shards.read(*shards.locate(number)), Config(max_frames=8, min_frames=1, rate=10.0, short_side=32)
            )
            shapes[sample["__key__"]] = tuple(sample["video"].shape)
            assert (np.diff(sample["video_times"]) > 0).all()
    assert shapes["pancake"] == (8, 3, 32, 57) and shapes["karma"] == (8, 3, 32, 57)
    assert shapes["euroc-v101-000"] == (8, 3, 32, 50)  # grey video is RGB here
    assert shapes["unordered"][0] == 1 and shapes["corrupted"][0] == 8
    assert len(shapes) == 25


# Spans and sizes


def test_a_span_is_drawn_in_training_and_taken_from_the_middle_else(mp4):
    decoder = Config(max_frames=6).build()
    assert numbers(decoder(raw(mp4=mp4))["video"]) == list(range(7, 13))
    begins = set()
    for number in range(12):
        shown = numbers(decoder(raw(mp4=mp4), draws(number))["video"])
        assert shown == list(range(shown[0], shown[0] + 6))
        assert shown == numbers(decoder(raw(mp4=mp4), draws(number))["video"])
        begins.add(shown[0])
    assert len(begins) > 4
    part = decode.decode(raw(mp4=mp4), Config(seconds=0.5, rate=10.0))
    np.testing.assert_allclose(part["video_times"], np.arange(8, 13) / 10, atol=0.051)  # seconds of the whole file
    assert len(part["video_times"]) == 5


def test_decoding_starts_at_the_key_frame_before():
    data = bytearray(encode(np.arange(20) / 10, options={"g": "5"}, draw=_noise, size=(64, 64)))
    whole = read(bytes(data))["video"]
    for number in (0, 1, 2, 3, 4, 16, 17, 18, 19):  # pictures that nobody asks for
        start, size = _packet(bytes(data), number)
        data[start : start + size] = b"\xff" * size
    part = read(bytes(data), max_frames=4)["video"]
    assert (part == whole[8:12]).all()


def test_frames_are_reduced_to_the_short_side():
    def halves(number: int) -> np.ndarray:
        pixels = np.zeros((64, 96, 3), np.uint8)
        pixels[:, 48:] = 200
        return pixels

    data = encode(np.arange(4) / 10, size=(64, 96), draw=halves)
    small = read(data, short_side=16)["video"]
    assert tuple(small.shape) == (4, 3, 16, 24)
    assert small[..., :11].float().mean() < 20 and small[..., 13:].float().mean() > 180
    assert tuple(read(data, short_side=None)["video"].shape) == (4, 3, 64, 96)
    assert tuple(read(data, short_side=128)["video"].shape) == (4, 3, 64, 96)  # never enlarged


def test_labels_and_members(mp4):
    sample = decode.decode(raw(mp4=mp4, cls=b"3"))
    assert sample["label"] == 3 and sample["__key__"] == "k"
    other = encode(np.arange(4) / 10)
    pair = raw(left__mp4=mp4, right__mp4=other)
    assert len(decode.decode(pair)["video"]) == 20  # the first by name
    assert len(decode.decode(pair, Config(member="right.mp4"))["video"]) == 4
    with pytest.raises(SampleError, match=r"missing: no top\.mp4 member \(members: left\.mp4, right\.mp4\)"):
        decode.decode(pair, Config(member="top.mp4"))
    beside = raw(mp4=mp4, npy=npy(np.zeros((50, 6), np.float32)))
    assert len(decode.decode(beside)["video"]) == 20  # an IMU's array is no video


# Stacks of frames


def test_stacks_of_frames():
    grey = np.arange(6, dtype=np.uint8)[:, None, None] * 10 + np.zeros((6, 20, 30), np.uint8)
    plain = decode.decode(raw(npy=npy(grey)))
    assert tuple(plain["video"].shape) == (6, 3, 20, 30) and plain["video_rate"] == pytest.approx(25.0)
    fast = decode.decode(raw(npy=npy(grey), json=b'{"fps": 50}'))
    assert fast["video_rate"] == pytest.approx(50.0)
    for stack in (np.repeat(grey[..., None], 3, 3), np.repeat(grey[:, None], 3, 1), grey[..., None]):
        assert (decode.decode(raw(npy=npy(stack)))["video"] == plain["video"]).all()
    buffer = io.BytesIO()
    times = np.array([5.0, 5.1, 5.4, 5.5, 5.9, 6.0])
    np.savez(buffer, frames=grey, times=times)
    timed = decode.decode(raw(npz=buffer.getvalue()))
    np.testing.assert_allclose(timed["video_times"], times - 5.0)
    assert tuple(decode.decode(raw(npy=npy(grey)), Config(short_side=10))["video"].shape) == (6, 3, 10, 15)


@pytest.mark.parametrize(
    ("array", "word", "text"),
    [
        (np.zeros((6, 20, 30), np.float32), "shape", "must be uint8"),
        (np.zeros((6, 20), np.uint8), "shape", r"\[T, H, W\]"),
        (np.zeros((6, 20, 30, 4), np.uint8), "shape", r"\[T, H, W, 3\]"),
        (np.zeros((1, 20, 30), np.uint8), "too_short", "at least 2"),
        (np.zeros((0, 20, 30), np.uint8), "shape", "frames are"),
        (np.array([{}], dtype=object), "unsafe", "pickle"),
    ],
)
def test_stacks_that_are_none(array, word, text):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    error = reason(buffer.getvalue(), "npy")
    assert error.reason == word
    assert re.search(text, error.detail), error.detail


def test_a_header_that_promises_terabytes_costs_nothing():
    data = npy(np.zeros((2, 8, 8), np.uint8)).replace(b"(2, 8, 8)", b"(9999999, 2000, 2000)")
    assert reason(data, "npy").reason in ("truncated", "too_large", "decode")
    flat = np.zeros((300, 400, 500), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, frames=flat)  # 60 MB of zeros in few bytes
    assert reason(buffer.getvalue(), "npz", max_bytes=1_000_000).reason == "too_large"
    assert reason(npy(np.zeros((2, 8, 8), np.uint8)), "npy", max_pixels=60).reason == "too_large"


def test_a_rate_that_is_none():
    with pytest.raises(SampleError, match="fps is 0; frames per second above 0"):
        decode.decode(raw(npy=npy(np.zeros((4, 8, 8), np.uint8)), json=b'{"fps": 0}'))


# Damage


def test_bad_files_say_what_is_wrong(mp4):
    assert reason(b"").reason == "empty"
    assert reason(b"no video at all " * 40).reason == "decode"
    assert reason(b"RIFF" + mp4[4:]).reason in ("decode", "truncated")
    assert reason(mp4[: len(mp4) // 2]).reason == "truncated"  # the table of frames stood at the end
    with pytest.raises(SampleError, match="no video member"):
        decode.decode(raw(txt=b"x"))


def test_a_list_of_files_opens_none_of_them(mp4, tmp_path, monkeypatch):
    """FFmpeg knows formats that name other files; a sample must not read the machine's."""
    (tmp_path / "secret.mp4").write_bytes(mp4)
    monkeypatch.chdir(tmp_path)
    concat = b"ffconcat version 1.0\nfile 'secret.mp4'\n"
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1.0,\nsecret.mp4\n#EXT-X-ENDLIST\n"
    for data in (concat, playlist, b"file 'secret.mp4'\n"):
        assert reason(data).reason == "decode"


def test_a_file_cut_in_its_pictures_is_truncated(tmp_path):
    data = encode(np.arange(20) / 10, options={"g": "5"}, draw=_noise, size=(64, 64))
    front = _with_table_in_front(data, tmp_path / "front.mp4")
    assert len(read(front)["video"]) == 20
    error = reason(front[: len(front) * 6 // 10])
    assert error.reason == "truncated", error


def _noise(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)


def _with_table_in_front(data: bytes, path: Path) -> bytes:
    """The same MP4 with its table of frames at the start, as files made for streaming have it."""
    import av

    with (
        av.open(io.BytesIO(data)) as source,
        av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return path.read_bytes()


@pytest.mark.parametrize("container", ["webm", "matroska"])
def test_files_that_end_early_give_what_is_there_or_an_error(container):
    """Matroska has no table: a file that was cut is a shorter video, as for every player."""
    codec = "libvpx-vp9" if container == "webm" else "libx264"
    data = encode(np.arange(20) / 10, container, codec, options={"g": "5"}, draw=_noise, size=(64, 64))
    name = "webm" if container == "webm" else "mkv"
    half = read(data[: len(data) // 2], name)
    assert 2 <= len(half["video"]) < 20
    assert reason(data[:200], name).reason in ("decode", "truncated", "empty")


def test_damage_in_the_middle(mp4):
    """A frame that cannot be decoded is shown as the one before; too many of them are an error."""
    data = encode(np.arange(40) / 10, options={"g": "1"}, draw=_noise, size=(64, 64))
    start, size = _packet(data, 12)
    once = bytearray(data)
    once[start : start + size] = b"\xff" * size
    sample = read(bytes(once))
    assert len(sample["video"]) == 40
    many = bytearray(data)
    for number in range(5, 35):
        start, size = _packet(data, number)
        many[start : start + size] = b"\xff" * size
    assert reason(bytes(many)).reason == "corrupt"


def _packet(data: bytes, number: int) -> tuple[int, int]:
    import av

    with av.open(io.BytesIO(data)) as file:
        packets = [p for p in file.demux(file.streams.video[0]) if p.size]
        return packets[number].pos, packets[number].size


def test_the_file_damaged_on_purpose_neither_hangs_nor_crashes(shared_data):
    from foundation.data.shards import open_shards

    shards = open_shards([str(shared_data("video_files") / "container-*.tar")])
    samples = [shards.read(*shards.locate(number)) for number in range(shards.num_samples)]
    (damaged,) = [sample for sample in samples if sample["__key__"] == "corrupted"]
    sample = decode.decode(damaged)
    assert len(sample["video"]) == 50
    for end in range(2000, len(damaged["mp4"]), 9000):
        with pytest.raises(SampleError) as caught:
            decode.decode(damaged | {"mp4": damaged["mp4"][:end]})
        assert caught.value.reason == "truncated"


def test_no_random_bytes_get_through(mp4):
    random = np.random.default_rng(0)
    for _ in range(30):
        changed = bytearray(mp4)
        for place in random.integers(0, len(mp4), 20):
            changed[place] = random.integers(0, 256)
        try:
            sample = read(bytes(changed))
        except SampleError as error:
            assert error.reason in REASONS
        else:
            assert sample["video"].shape[1] == 3 and np.isfinite(sample["video_times"]).all()


def test_too_few_frames_and_too_many_pixels(mp4):
    assert reason(encode([0.0])).reason == "too_short"
    error = reason(mp4, min_frames=30, max_frames=60)
    assert error.reason == "too_short" and "20 of 20 frames" in error.detail and "decode.min_frames" in error.detail
    assert "48 x 32 pixels are more than max_pixels = 100" in reason(mp4, max_pixels=100).detail
    error = reason(mp4, max_bytes=10_000)
    assert error.reason == "too_large" and "lower decode.max_frames" in error.detail


def test_sound_without_pictures():
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode()]:
            file.mux(packet)
    error = reason(buffer.getvalue())
    assert error.reason == "missing" and "no video track" in error.detail


def test_without_pyav(mp4, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install foundation-pretrain\[video\]"):
        read(mp4)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"max_frames": 0}, "max_frames is 0"),
        ({"min_frames": 9, "max_frames": 8}, "min_frames 9 is more than max_frames 8"),
        ({"rate": 0.0}, "decode.rate is 0"),
        ({"seconds": float("inf")}, "decode.seconds is inf"),
        ({"stack_rate": -1.0}, "stack_rate"),
        ({"short_side": 0}, "short_side is 0"),
        ({"backend": "decord"}, "choose pyav or torchcodec"),
    ],
)
def test_settings_that_cannot_work(settings, text):
    with pytest.raises(UserError, match=text):
        Config(**settings)


# The other backend


@pytest.fixture
def torchcodec() -> None:
    """A skip where torchcodec or the system's FFmpeg is missing."""
    from foundation.modalities.video.torchcodec import library

    try:
        library()
    except UserError as error:
        pytest.skip(str(error))


def test_torchcodec_gives_the_same_frames(torchcodec, mp4, shared_data):
    from foundation.data.shards import open_shards

    for settings in ({}, {"rate": 4.0}, {"max_frames": 5}):
        one, other = read(mp4, **settings), read(mp4, backend="torchcodec", **settings)
        assert (one["video"] == other["video"]).all() and (one["video_times"] == other["video_times"]).all()
    shards = open_shards([str(shared_data("video_files") / "container-*.tar")])
    for number in range(shards.num_samples):
        sample = shards.read(*shards.locate(number))
        if sample["__key__"] != "corrupted":
            settings = {"max_frames": 4, "short_side": None}
            ours = decode.decode(sample, Config(**settings))["video"]
            theirs = decode.decode(sample, Config(backend="torchcodec", **settings))["video"]
            assert ours.shape == theirs.shape and (ours.float() - theirs.float()).abs().mean() < 1.0


def test_torchcodec_names_damage(torchcodec, mp4):
    data = bytearray(encode(np.arange(20) / 10, options={"g": "1"}, draw=_noise, size=(64, 64)))
    start, size = _packet(bytes(data), 8)
    data[start : start + size] = b"\xff" * size
    assert reason(bytes(data), backend="torchcodec").reason == "corrupt"
    assert len(read(bytes(data))["video"]) == 20


def test_without_torchcodec(mp4, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(UserError, match=r"or set decode\.backend to pyav"):
        read(mp4, backend="torchcodec")
