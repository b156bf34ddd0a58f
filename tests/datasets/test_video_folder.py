"""Folders of videos: real files, damaged ones, and the way from a folder to features."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foundation.data.shards import open_shards
from foundation.modalities.video import decode
from tests.modalities.video.conftest import encode

pytest.importorskip("av")


@pytest.fixture
def videos(tmp_path: Path) -> dict[str, bytes]:
    made = {
        "train/walk/a.mp4": encode(np.arange(6) / 10),
        "train/run/b.mkv": encode(np.arange(8) / 20, "matroska"),
        "test/run/c.webm": encode(np.arange(4) / 5, "webm", "libvpx-vp9"),
    }
    for name, data in made.items():
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return made


def test_a_folder_becomes_shards(tmp_path: Path, videos: dict[str, bytes], command: Callable[..., Any]) -> None:
    (tmp_path / "clips/train/run/text.mp4").write_text("hello")
    (tmp_path / "clips/train/run/empty.mp4").write_bytes(b"")
    (tmp_path / "clips/train/run/notes.txt").write_text("no video")
    done = command("data", "build", "video-folder", tmp_path / "out", "--root", tmp_path / "clips")
    assert done.returncode == 0, done.stderr
    for words in ("1 decode", "text.mp4: mp4 (5 bytes): ", "1 empty", "empty.mp4: no bytes", "1 .txt"):
        assert words in done.stderr, done.stderr
    shards = open_shards([str(tmp_path / "out" / "train-*.tar")])
    assert (shards.num_samples, shards.classes) == (2, ("run", "walk"))
    found = {}
    for number in range(2):
        raw = shards.read(*shards.locate(number))
        sample = decode.decode(raw)
        facts = json.loads(raw["json"])
        found[facts["path"]] = (raw.get("mp4") or raw.get("mkv"), sample["label"], len(sample["video"]), facts["fps"])
    assert found["train/walk/a.mp4"][:3] == (videos["train/walk/a.mp4"], 1, 6)
    assert found["train/run/b.mkv"][:3] == (videos["train/run/b.mkv"], 0, 8)
    assert found["train/walk/a.mp4"][3] == pytest.approx(10, rel=0.2)
    test = open_shards([str(tmp_path / "out" / "test-*.tar")])
    facts = json.loads(test.read(*test.locate(0))["json"])
    assert (facts["codec"], facts["width"], facts["height"]) in (("vp9", 48, 32), ("libvpx-vp9", 48, 32))


def test_files_as_they_come(tmp_path: Path, shared_data: Callable[[str], Path], read: Callable[..., Any]) -> None:
    """The seven real containers, laid out in a flat folder."""
    shards = open_shards([str(shared_data("video_files") / "container-*.tar")])
    for number in range(shards.num_samples):
        raw = shards.read(*shards.locate(number))
        (name,) = [key for key in raw if key in ("mkv", "mov", "mp4")]
        (tmp_path / f"{raw['__key__']}.{name}").write_bytes(raw[name])
    samples = read("video_folder", "--root", str(tmp_path))["train"]
    facts = {json.loads(s["json"])["path"]: json.loads(s["json"]) for s in samples}
    assert len(facts) == 7 and all("cls" not in sample for sample in samples)
    assert facts["pancake.mkv"]["width"] == 426 and facts["pancake.mkv"]["seconds"] > 5
