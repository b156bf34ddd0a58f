"""Bytes to waveforms: formats, channels, rates, and every kind of damage."""

from __future__ import annotations

import io
import struct
import sys
import tarfile

import numpy as np
import pytest
import torch

from foundation.data.arrays import array_facts
from foundation.data.sound import kind_of_sound
from foundation.errors import REASONS, SampleError, UserError
from foundation.modalities.audio.decode import Config, decode
from tests.modalities.audio.conftest import encode, tone


@pytest.mark.parametrize("kind", ["wav", "flac", "aiff", "au", "caf"])
@pytest.mark.parametrize("rate", [8000, 11025, 44100])
def test_lossless_formats_keep_samples_and_rate(raw, kind, rate):
    wave = np.random.default_rng(0).integers(-(2**15), 2**15, 5000) / 2.0**15
    sample = decode(raw(encode(wave, rate, kind, "PCM_16"), kind))
    assert sample["audio_rate"] == rate and sample["audio"].dtype == torch.float32
    assert np.array_equal(sample["audio"].numpy(), wave.astype(np.float32))
    assert sample["__key__"] == "k7" and "label" not in sample


@pytest.mark.parametrize(("kind", "tolerance"), [("ogg", 0.05), ("mp3", 0.1)])
def test_lossy_formats_sound_the_same(raw, kind, tolerance):
    wave = tone(1.0, 16000)
    sample = decode(raw(encode(wave, 16000, kind), kind))
    heard = sample["audio"].numpy()
    assert abs(len(heard) - 16000) < 3000  # an MP3 has silence at both ends
    power = np.abs(np.fft.rfft(heard[2000:14000] * np.hanning(12000)))
    assert abs(power.argmax() * 16000 / 12000 - 440) < 2
    assert abs(np.sqrt(np.mean(heard[2000:14000] ** 2)) - 0.5 / np.sqrt(2)) < tolerance


def test_channels_become_one(raw):
    left, right = tone(0.1, 8000), tone(0.1, 8000, 1000.0)
    data = raw(encode(np.stack([left, right], 1), 8000, "wav", "FLOAT"))
    np.testing.assert_allclose(decode(data)["audio"].numpy(), (left + right) / 2, atol=1e-7)
    np.testing.assert_array_equal(decode(data, Config(channels="first"))["audio"].numpy(), left)


def test_label_and_member(raw):
    data = encode(tone(0.1, 8000), 8000)
    assert decode(raw(data, cls=b"3"))["label"] == 3
    assert decode(raw(data, json=b'{"label": 5}'))["label"] == 5
    both = {**raw(data, "left.wav"), "right.wav": encode(tone(0.2, 8000), 8000)}
    assert len(decode(both)["audio"]) == 800
    assert len(decode(both, Config(member="right.wav"))["audio"]) == 1600


def _slow(data: bytes) -> bytes:
    return data[:44].replace(struct.pack("<I", 8000), struct.pack("<I", 3)) + data[44:]


def _nan(data: bytes) -> bytes:
    place = data.rindex(b"data") + 8
    return data[: place + 400] + struct.pack("<f", float("nan")) + data[place + 404 :]


@pytest.mark.parametrize(
    ("damage", "kind", "reason", "words"),
    [
        (lambda data: b"", "wav", "empty", "no bytes"),
        (lambda data: b"not a sound at all", "wav", "decode", "no audio file"),
        (lambda data: b"\x89PNG\r\n\x1a\n" + data, "wav", "decode", "no audio file"),
        (lambda data: data[:40], "wav", "truncated", "before its sound begins"),
        (lambda data: data[: len(data) // 2], "wav", "truncated", "bytes of sound"),
        (lambda data: data[: len(data) // 2], "flac", "truncated", "flac"),
        (lambda data: data[: len(data) // 2], "ogg", "truncated", "last page"),
        (lambda data: b"fLaC" + bytes(200), "flac", "decode", "flac"),
        (
            lambda data: data[:44].replace(struct.pack("<I", 8000), struct.pack("<I", 3)) + data[44:],
            "wav",
            "shape",
            "Hz",
        ),
        (_nan, "float", "not_finite", "1 sample is NaN"),
    ],
)
def test_damage_is_named(raw, damage, kind, reason, words):
    wave = np.random.default_rng(0).normal(0, 0.1, 20000).astype(np.float32)
    whole = encode(wave, 8000, "wav", "FLOAT") if kind == "float" else encode(wave, 8000, kind)
    with pytest.raises(SampleError, match=words) as caught:
        decode(raw(damage(whole), "wav" if kind == "float" else kind))
    assert caught.value.reason == reason and reason in REASONS
    assert (caught.value.shard, caught.value.key) == ("s.tar", "k7")


def test_missing_member_names_those_there_are(raw):
    with pytest.raises(SampleError, match=r"members: jpg") as caught:
        decode(raw(b"x", "jpg"))
    assert caught.value.reason == "missing"


def test_no_samples_and_too_many(raw):
    with pytest.raises(SampleError, match="without a single sample") as caught:
        decode(raw(encode(np.zeros(0, np.float32), 8000)))
    assert caught.value.reason == "empty"
    with pytest.raises(SampleError, match="more than max_seconds = 1") as caught:
        decode(raw(encode(tone(1.5, 8000), 8000)), Config(max_seconds=1.0))
    assert caught.value.reason == "too_large"


def test_a_header_that_promises_hours_costs_nothing(raw):
    data = bytearray(encode(tone(0.1, 8000), 8000, "wav", "PCM_16"))
    place = data.rindex(b"data") + 4
    data[place : place + 4] = struct.pack("<I", 0x7FFF0000 - 1)
    with pytest.raises(SampleError) as caught:
        decode(raw(bytes(data)))
    assert caught.value.reason == "truncated"


def test_real_recordings(shared_data, raw):
    for name, rate in (("fsdd", 8000), ("esc10", 8000)):
        with tarfile.open(next(shared_data(name).glob("test-*.tar"))) as tar:
            members = {m.name: m for m in tar if m.name.endswith((".flac", ".cls"))}
            stem = next(iter(members)).rpartition(".")[0]
            sample = decode(
                raw(
                    tar.extractfile(members[f"{stem}.flac"]).read(),
                    "flac",
                    cls=tar.extractfile(members[f"{stem}.cls"]).read(),
                )
            )
        assert sample["audio_rate"] == rate and len(sample["audio"]) > 1000 and 0 <= sample["label"] < 10
        assert 0.001 < sample["audio"].abs().max() <= 1


def test_without_soundfile_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UserError, match=r"pip install 'foundation-pretrain\[audio\]'"):
        Config().build()


def test_wrong_settings():
    with pytest.raises(UserError, match="max_seconds"):
        Config(max_seconds=0)
    with pytest.raises(UserError, match="choose mean or first"):
        Config(channels="both")  # type: ignore[arg-type]


def test_allow_list_of_containers():
    assert kind_of_sound(b"RIFF\0\0\0\0AVI ") is None and kind_of_sound(b"\xff\xd8\xff\xe0") is None
    assert kind_of_sound(b"ID3\x03") == "mp3" and kind_of_sound(b"#EXTM3U\nx.wav") is None


# Lengths that a recorder never filled in, and files that were cut


def _patch(data: bytes, *changes: tuple[int, bytes]) -> bytes:
    whole = bytearray(data)
    for place, content in changes:
        whole[place : place + len(content)] = content
    return bytes(whole)


WAVE = np.random.default_rng(2).integers(-(2**14), 2**14, 4000) / 2.0**15


def _wav(length: int, outer: int, order: str = "<") -> bytes:
    data = encode(WAVE, 8000, "wav", "PCM_16", endian="BIG" if order == ">" else "FILE")
    return _patch(
        data, (4, struct.pack(order + "I", outer)), (data.index(b"data") + 4, struct.pack(order + "I", length))
    )


def _rf64(wide: int, magic: bytes = b"RF64") -> bytes:
    data = encode(WAVE, 8000, "rf64", "PCM_16")
    place = data.index(b"ds64") + 8
    return _patch(data, (0, magic), (place, struct.pack("<QQQ", wide, wide, wide)))


def _at_end(kind: str, mark: bytes, offset: int, content: bytes) -> bytes:
    data = encode(WAVE, 8000, kind, "PCM_16")
    return _patch(data, (data.rindex(mark) + offset, content))


STREAMED = {
    "ffmpeg to a pipe": ("wav", _wav(0xFFFFFFFF, 0xFFFFFFFF)),
    "sox to a pipe": ("wav", _wav(0x7FFFFFDB, 0x7FFFFFFF)),
    "arecord to a pipe": ("wav", _wav(0x80000000, 0x80000024)),
    "a recorder switched off": ("wav", _wav(0, 0)),
    "a recorder switched off after its header": ("wav", _wav(0, 36)),
    "big-endian": ("wav", _wav(0xFFFFFFFF, 0xFFFFFFFF, ">")),
    "RF64": ("wav", _rf64(0)),
    "RF64 of the largest number": ("rf64", _rf64(0xFFFFFFFFFFFFFFFF)),
    "BW64": ("wav", _rf64(8000, b"BW64")),
    "W64": ("w64", _at_end("w64", b"data\xf3\xac\xd3\x11", 16, struct.pack("<Q", 0xFFFFFFFFFFFFFFFF))),
    "AIFF of nothing": ("aiff", _at_end("aiff", b"SSND", 4, struct.pack(">I", 0))),
    "AIFF of the largest number": ("aif", _at_end("aiff", b"SSND", 4, struct.pack(">I", 0xFFFFFFFF))),
    "AU": ("au", _at_end("au", b".snd", 8, struct.pack(">I", 0xFFFFFFFF))),
    "AU of nothing": ("snd", _at_end("au", b".snd", 8, struct.pack(">I", 0))),
    "CAF": ("caf", _at_end("caf", b"data", 4, struct.pack(">q", -1))),
    "FLAC": ("flac", _at_end("flac", b"fLaC", 21, b"\xf0\0\0\0\0")),
}


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.fault(21, "a recording whose length its recorder never filled in, in every container")
def test_a_placeholder_of_a_length_means_to_the_end(raw, name, happened):
    extension, data = STREAMED[name]
    sample = decode(raw(data, extension))
    assert np.array_equal(sample["audio"].numpy(), WAVE.astype(np.float32))
    if extension == "wav":  # what verify finds without decoding
        (facts,) = array_facts(io.BytesIO(data), "wav", len(data))
        assert facts.shape == (4000, 1) and facts.rate == 8000
    happened("training and verify read to the end of the file")


@pytest.mark.parametrize("kind", ["wav", "rf64", "w64", "aiff", "au", "caf", "flac", "ogg"])
@pytest.mark.fault(21, "a recording cut in the middle, in every container")
def test_a_recording_that_was_cut_is_truncated_in_every_container(raw, kind, happened):
    data = encode(WAVE, 8000, kind)
    with pytest.raises(SampleError) as caught:
        decode(raw(data[: len(data) * 3 // 4], kind))
    assert caught.value.reason == "truncated", caught.value
    happened("refused as truncated")


@pytest.mark.fault(21, "a WAV without samples")
def test_no_sound_is_no_placeholder(raw, happened):
    data = encode(np.zeros(0), 8000, "wav", "PCM_16")
    more = data[:4] + struct.pack("<I", len(data) + 4) + data[8:] + b"LIST" + struct.pack("<I", 4) + b"INFO"
    for empty in (data, more):
        with pytest.raises(SampleError) as caught:
            decode(raw(empty))
        assert caught.value.reason == "empty"
    happened("refused as empty")


# Range


@pytest.mark.parametrize("kind", ["wav", "aiff", "au", "caf", "w64"])
@pytest.mark.parametrize(
    "subtype", ["PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"]
)
def test_full_scale_is_one_whatever_the_numbers(raw, kind, subtype):
    import soundfile

    if subtype not in soundfile.available_subtypes("WAV" if kind == "wav" else kind.upper()):
        pytest.skip(f"{kind} has no {subtype}")
    wave = np.sin(np.arange(4000) / 40) * 0.999
    heard = decode(raw(encode(wave, 8000, kind, subtype), kind))["audio"].numpy()
    assert np.abs(heard - wave).max() < (0.03 if subtype in ("ULAW", "ALAW") else 0.01 if "8" in subtype else 1e-4)


def test_samples_far_above_full_scale_and_silence_are_noted(raw):
    loud = decode(raw(encode(WAVE * 32768, 8000, "wav", "FLOAT")))
    (note,) = loud["__notes__"]
    assert note.reason == "range" and "where full scale is 1" in note.detail
    assert loud["audio"].abs().max() > 8000, "nothing is clipped"
    assert "__notes__" not in decode(raw(encode(WAVE * 4, 8000, "wav", "FLOAT"))), "headroom"
    (note,) = decode(raw(encode(WAVE * 0, 8000, "flac")))["__notes__"]
    assert "silence" in note.detail
    with pytest.raises(SampleError, match="not_finite"):
        decode(raw(encode(WAVE * 1e300, 8000, "wav", "DOUBLE")))


# Codecs that only FFmpeg knows


def _ffmpeg(container: str, codec: str, rate: int = 16000, tracks: int = 1) -> bytes:
    """Half a second of 440 Hz, then half a second of silence."""
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        streams = [file.add_stream(codec, rate=rate, layout="mono", options={"b": "64000"}) for _ in range(tracks)]
        wave = np.concatenate([tone(0.5, rate), np.zeros(rate // 2, np.float32)])[None]
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.sample_rate = rate
            convert = av.AudioResampler(
                stream.codec_context.format, "mono", rate, stream.codec_context.frame_size or None
            )
            for piece in [*convert.resample(frame), *convert.resample(None)]:
                file.mux(stream.encode(piece))
            file.mux(stream.encode())
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "container", "codec", "rate"),
    [
        ("m4a", "ipod", "aac", 16000),
        ("m4a", "ipod", "alac", 44100),
        ("aac", "adts", "aac", 16000),
        ("mka", "matroska", "aac", 16000),
        ("weba", "webm", "libopus", 48000),
        ("wma", "asf", "wmav2", 16000),
        ("ac3", "ac3", "ac3", 48000),
        ("wv", "wv", "wavpack", 16000),
        ("wav", "wav", "adpcm_ima_wav", 16000),
    ],
)
def test_codecs_of_telephones_and_browsers_are_read(raw, name, container, codec, rate):
    sample = decode(raw(_ffmpeg(container, codec, rate), name))
    heard = sample["audio"].numpy()
    assert sample["audio_rate"] == rate and abs(len(heard) - rate) < 0.2 * rate
    part = heard[rate // 8 : rate // 8 + rate // 4]
    power = np.abs(np.fft.rfft(part * np.hanning(len(part))))
    assert abs(power.argmax() * rate / len(part) - 440) < 5 and np.abs(part).max() == pytest.approx(0.5, abs=0.06)


@pytest.mark.fault(21, "an M4A cut in the middle, one of bytes that are no sound, one that is too long")
def test_damage_of_such_files_is_named(raw, happened):
    whole = _ffmpeg("ipod", "aac")
    damaged = [(whole[: len(whole) // 2], "truncated"), (whole[:40] + bytes(4000), "truncated")]
    for data, reason in [*damaged, (b"ADIF" + bytes(4000), "decode")]:
        with pytest.raises(SampleError) as caught:
            decode(raw(data, "m4a"))
        assert caught.value.reason == reason, caught.value
    with pytest.raises(SampleError, match=r"more than max_seconds = 0\.5"):
        decode(raw(whole, "m4a"), Config(max_seconds=0.5))
    happened("refused as truncated, decode, too_large")


def test_several_tracks_are_said(raw):
    (note,) = decode(raw(_ffmpeg("matroska", "aac", tracks=2), "mka"))["__notes__"]
    assert note.detail == "2 tracks of sound; the first is read"


def test_without_pyav_the_file_and_the_extra_are_named(raw, monkeypatch):
    data = _ffmpeg("ipod", "aac")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"a mp4 file: .*pip install foundation-pretrain\[video\]"):
        decode(raw(data, "m4a"))
