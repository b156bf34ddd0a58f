"""Bytes to waveforms: formats, channels, rates, and every kind of damage."""

from __future__ import annotations

import io
import struct
import sys
import tarfile

import numpy as np
import pytest
import torch

from foundation.errors import REASONS, SampleError, UserError
from foundation.modalities.audio import decode as module
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
        (_nan, "float", "not_finite", "1 samples are NaN"),
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
    assert module._kind(b"RIFF\0\0\0\0AVI ") is None and module._kind(b"\xff\xd8\xff\xe0") is None
    assert module._kind(b"ID3\x03") == "mp3" and io.BytesIO is not None
