"""Data sets of sound, on small files in the published layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foundation.data.build import load
from foundation.data.shards import open_shards
from foundation.errors import UserError
from foundation.modalities.audio.decode import decode_bytes
from tests.modalities.audio.conftest import encode, tone

Read = Callable[..., dict[str, list[dict[str, Any]]]]


def put(path: Path, seconds: float = 0.1, rate: int = 8000, hertz: float = 440.0, kind: str = "wav") -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = encode(tone(seconds, rate, hertz), rate, kind, "PCM_16" if kind in ("wav", "flac") else None)
    path.write_bytes(data)
    return data


def facts(sample: dict[str, Any]) -> dict[str, Any]:
    return json.loads(sample["json"])


def test_a_folder_becomes_shards(tmp_path: Path, command: Callable[..., Any]) -> None:
    data = put(tmp_path / "sounds/train/dog/a.wav", 0.25)
    put(tmp_path / "sounds/train/cat/b.flac", kind="flac")
    put(tmp_path / "sounds/test/cat/c.ogg", 0.5, 16000, kind="ogg")
    (tmp_path / "sounds/train/dog/text.wav").write_text("hello there")
    (tmp_path / "sounds/train/dog/cut.wav").write_bytes(data[:300])
    done = command("data", "build", "audio-folder", tmp_path / "out", "--root", tmp_path / "sounds")
    assert done.returncode == 0, done.stderr
    assert "1 decode\n    train/dog/text.wav: wav (11 bytes): begins with b'hello th'" in done.stderr
    assert "1 truncated\n    train/dog/cut.wav: wav (300 bytes): 256 of 4000 bytes of sound" in done.stderr
    shards = open_shards([str(tmp_path / "out" / "train-*.tar")])
    found = {raw["__key__"]: raw for raw in (shards.read(0, i) for i in range(shards.num_samples))}
    assert set(found) == {"train-dog-a", "train-cat-b"}
    dog = found["train-dog-a"]
    assert dog["wav"] == data and dog["cls"] == b"1"
    assert facts(dog) == {
        "path": "train/dog/a.wav", "kind": "wav", "rate": 8000, "channels": 1, "seconds": 0.25, "class": "dog"
    }  # fmt: skip
    assert command("data", "verify", tmp_path / "out" / "train-000000.tar").returncode == 0


@pytest.fixture
def esc50(tmp_path: Path) -> Path:
    root = tmp_path / "ESC-50-master"
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    rows = [
        (1, 0, "dog", True),
        (1, 41, "chainsaw", True),
        (2, 0, "dog", True),
        (5, 7, "crow", False),
        (5, 0, "dog", True),
    ]
    for number, (fold, target, name, ten) in enumerate(rows):
        file = f"{fold}-1000{number}-A-{target}.wav"
        put(root / "audio" / file, 0.2, 44100)
        lines.append(f"{file},{fold},{target},{name},{ten},1000{number},A")
    (root / "meta").mkdir()
    (root / "meta" / "esc50.csv").write_text("\n".join(lines) + "\n")
    return root


def test_esc50(esc50: Path, read: Read) -> None:
    splits = read("esc50", "--root", str(esc50))
    assert sorted((facts(s)["fold"], facts(s)["class"]) for s in splits["test"]) == [(5, "crow"), (5, "dog")]
    assert {facts(s)["class"]: s["cls"] for rows in splits.values() for s in rows} == {
        "dog": b"0", "crow": b"1", "chainsaw": b"2"
    }  # fmt: skip
    ten = read("esc50", "--root", str(esc50), "--esc10", "--test-fold", "2")
    assert len(ten["train"]) == 3 and [facts(s)["class"] for s in ten["test"]] == ["dog"]
    assert {facts(s)["class"]: s["cls"] for s in ten["train"]} == {"dog": b"0", "chainsaw": b"1"}
    assert facts(ten["train"][0])["rate"] == 44100
    with pytest.raises(UserError, match=r"--test-fold 4 leaves 'test' empty \(folds: 1, 2, 5\)"):
        read("esc50", "--root", str(esc50), "--test-fold", "4")
    with pytest.raises(UserError, match=r"no meta/esc50\.csv"):
        read("esc50", "--root", str(esc50 / "meta"))


def test_speech_commands(tmp_path: Path, read: Read) -> None:
    root = tmp_path / "speech_commands_v0.02"
    for word in ("yes", "no", "up"):
        for speaker in ("0a7c2a8d", "b29f8b23", "fffcabd1"):
            put(root / word / f"{speaker}_nohash_0.wav", 0.2, 16000)
    put(root / "_background_noise_" / "white_noise.wav")
    (root / "validation_list.txt").write_text("yes/b29f8b23_nohash_0.wav\nno/b29f8b23_nohash_0.wav\n")
    (root / "testing_list.txt").write_text("yes/fffcabd1_nohash_0.wav\n")
    splits = read("speech_commands", "--root", str(root))
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 6, "val": 2, "test": 1}
    test = splits["test"][0]
    assert test["cls"] == b"2" and facts(test)["speaker"] == "fffcabd1"
    heard = {s["__key__"] for rows in splits.values() for s in rows}
    assert len(heard) == 9 and not any("noise" in key for key in heard)
    two = read("speech_commands", "--root", str(root), "--words", "yes,no")
    assert sum(map(len, two.values())) == 6 and {s["cls"] for s in two["train"]} == {b"0", b"1"}
    with pytest.raises(UserError, match=r"--words maybe.*there are: no, up, yes"):
        read("speech_commands", "--root", str(root), "--words", "maybe")
    (root / "testing_list.txt").unlink()
    with pytest.raises(UserError, match=r"no testing_list\.txt"):
        read("speech_commands", "--root", str(root))


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    root = tmp_path / "free-spoken-digit-dataset"
    for speaker, hertz in (("anna", 300.0), ("ben", 150.0)):
        for digit in range(3):
            for index in range(7):
                put(root / "recordings" / f"{digit}_{speaker}_{index}.wav", 0.1 + 0.02 * digit, hertz=hertz)
    (root / "recordings" / "readme.txt").write_text("hello")
    return root


def test_official_split_and_held_out_speakers(digits: Path, read: Read) -> None:
    splits = read("speech_digits", "--root", str(digits))
    assert len(splits["train"]) == 2 * 3 * 2 and len(splits["test"]) == 2 * 3 * 5
    assert all(facts(s)["index"] < 5 for s in splits["test"])
    assert all(s["cls"].decode() == s["__key__"][0] == str(facts(s)["label"]) for s in splits["train"])
    held = read("speech_digits", "--root", str(digits), "--hold-out", "ben")
    assert {facts(s)["speaker"] for s in held["test"]} == {"ben"} and len(held["test"]) == 21
    assert {facts(s)["speaker"] for s in held["train"]} == {"anna"}
    with pytest.raises(UserError, match=r"--hold-out carl: no such speaker \(there are: anna, ben\)"):
        read("speech_digits", "--root", str(digits), "--hold-out", "carl")
    with pytest.raises(UserError, match="is empty"):
        read("speech_digits", "--root", str(digits), "--hold-out", "anna,ben")


def test_strings_say_what_is_heard_when(digits: Path, read: Read) -> None:
    splits = read("speech_digits", "--root", str(digits), "--hold-out", "ben", "--strings", "4")
    assert len(splits["train"]) == len(splits["test"]) == 5
    parts = []
    for sample in splits["train"]:
        wave, rate = decode_bytes(sample["flac"])
        events = facts(sample)["events"]
        assert len(events) == 4 and facts(sample)["speaker"] == "anna" and "cls" not in sample
        loud = np.abs(wave) > 0
        inside = np.zeros(len(wave), bool)
        for event in events:
            begin, end = (round(event[name] * rate) for name in ("onset", "offset"))
            assert (end - begin) / rate == pytest.approx(0.1 + 0.02 * event["label"], abs=1e-3)
            inside[begin:end] = True
            parts.append(event["label"])
        assert not loud[~inside].any() and loud[inside].mean() > 0.9
        pauses = [b["onset"] - a["offset"] for a, b in pairwise(events)]
        assert all(0.049 <= pause <= 0.301 for pause in pauses) and len(set(pauses)) > 1
    assert len(parts) == 20 and {parts.count(d) for d in range(3)} <= {6, 7}  # every recording at most once


def test_shards_can_be_split_anew(digits: Path, read: Read, command: Callable[..., Any], tmp_path: Path) -> None:
    assert command("data", "build", "speech-digits", tmp_path / "shards", "--root", digits).returncode == 0
    again = read("speech_digits", "--root", str(tmp_path / "shards"), "--hold-out", "ben")
    direct = read("speech_digits", "--root", str(digits), "--hold-out", "ben")
    for split in ("train", "test"):
        assert {s["__key__"]: s["wav"] for s in again[split]} == {s["__key__"]: s["wav"] for s in direct[split]}


def test_shared_digits_hold_their_speakers_apart(shared_data: Callable[[str], Path], read: Read) -> None:
    splits = read("speech_digits", "--root", str(shared_data("fsdd")), "--hold-out", "theo")
    assert len(splits["train"]) == 2500 and len(splits["test"]) == 500


@pytest.mark.parametrize("name", ["audio_folder", "esc50", "speech_commands", "speech_digits"])
def test_cards(name: str) -> None:
    card = load(name).card
    assert card["modality"] == "audio" and card["licence"] and card["layout"] and card["size"]
