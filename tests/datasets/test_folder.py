"""Your own files: three layouts, bytes untouched, safe keys."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foundation.data.build import load
from foundation.data.shards import open_shards
from foundation.errors import UserError

Read = Callable[..., dict[str, list[dict[str, Any]]]]


def picture(path: Path, shade: int = 0) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 4), (shade % 256, 0, 0)).save(path)
    return path.read_bytes()


def test_class_folders(tmp_path: Path, read: Read) -> None:
    wanted = {}
    for number, name in enumerate(["dog/a.v2.jpg", "dog/b c.PNG", "cat/a.v2.jpg", "cat/sub/ü.png"]):
        wanted[name] = picture(tmp_path / "pics" / name, 50 * number)
    (tmp_path / "pics" / "dog" / "notes.txt").write_text("no picture")
    samples = read("folder", "--root", str(tmp_path / "pics"))["train"]
    facts = [json.loads(sample["json"]) for sample in samples]
    assert {
        fact["path"]: sample[Path(fact["path"]).suffix.lower()[1:]] for fact, sample in zip(facts, samples, strict=True)
    } == wanted
    assert {(fact["class"], sample["cls"]) for fact, sample in zip(facts, samples, strict=True)} == {
        ("cat", b"0"),
        ("dog", b"1"),
    }
    keys = [sample["__key__"] for sample in samples]
    assert len(set(keys)) == 4 and all("." not in key and " " not in key and key.isascii() for key in keys)


def test_splits_in_folders_and_flat_folder(tmp_path: Path, read: Read) -> None:
    for name in ("train/a/1.png", "train/b/1.png", "test/a/9.png"):
        picture(tmp_path / "split" / name)
    assert {s: len(rows) for s, rows in read("folder", "--root", str(tmp_path / "split")).items()} == {
        "train": 2,
        "test": 1,
    }
    for number in range(3):
        picture(tmp_path / "flat" / f"{number}.png")
    samples = read("folder", "--root", str(tmp_path / "flat"))["train"]
    assert len(samples) == 3 and all("cls" not in sample for sample in samples)


def test_files_beside_class_folders_are_refused(tmp_path: Path, read: Read) -> None:
    picture(tmp_path / "a" / "1.png")
    picture(tmp_path / "stray.png")
    with pytest.raises(UserError, match=r"1 files lie beside the class folders \(first: stray\.png\)"):
        read("folder", "--root", str(tmp_path))


def test_manifest(tmp_path: Path, read: Read) -> None:
    for name in ("x/1.png", "x/2.png", "3.png"):
        picture(tmp_path / name)
    (tmp_path / "list.csv").write_text("path,label,split\nx/1.png,tree,train\nx/2.png,,train\n3.png,bush,val\n")
    splits = read("folder", "--csv", str(tmp_path / "list.csv"))
    assert {split: sorted(s.get("cls", b"-") for s in rows) for split, rows in splits.items()} == {
        "train": [b"-", b"1"],
        "val": [b"0"],
    }
    (tmp_path / "numbers.csv").write_text("path,label\nx/1.png,7\nx/2.png,3\n")
    numbered = read("folder", "--csv", str(tmp_path / "numbers.csv"))["train"]
    assert {(s["cls"], json.loads(s["json"])["class"]) for s in numbered} == {(b"0", "3"), (b"1", "7")}
    (tmp_path / "bad.csv").write_text("file,label\nx/1.png,7\n")
    with pytest.raises(UserError, match=r"no column 'path' \(columns: file, label\)"):
        read("folder", "--csv", str(tmp_path / "bad.csv"))


def test_a_test_fraction_is_stable_when_files_are_added(tmp_path: Path, read: Read) -> None:
    def keys() -> dict[str, set[str]]:
        splits = read("folder", "--root", str(tmp_path), "--test-fraction", "0.3")
        return {split: {sample["__key__"] for sample in samples} for split, samples in splits.items()}

    for number in range(40):
        picture(tmp_path / f"k{number % 2}" / f"{number}.png")
    before = keys()
    assert before == keys() and 3 < len(before["test"]) < 25 and not before["train"] & before["test"]
    for number in range(40, 60):
        picture(tmp_path / "k0" / f"{number}.png")
    after = keys()
    assert before["test"] <= after["test"] and before["train"] <= after["train"]


def test_unreadable_files_are_left_out_and_named(tmp_path: Path, command: Callable[..., Any]) -> None:
    for number in range(3):
        picture(tmp_path / "in" / "a" / f"{number}.png")
    (tmp_path / "in" / "a" / "empty.png").write_bytes(b"")
    (tmp_path / "in" / "a" / "text.jpg").write_text("hello")
    (tmp_path / "in" / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    done = command("data", "build", "folder", tmp_path / "out", "--root", tmp_path / "in")
    assert done.returncode == 0, done.stderr
    for words in ("empty.png: no bytes", "text.jpg: jpg (5 bytes): not a picture", "gone.png: No such file"):
        assert words in done.stderr, done.stderr
    shards = open_shards(tmp_path / "out")
    assert (shards.num_samples, shards.classes) == (3, ("a",))
    assert str(tmp_path) not in (tmp_path / "out" / "index.json").read_text()


def test_nothing_to_take_is_said(tmp_path: Path, read: Read) -> None:
    with pytest.raises(UserError, match="--root FOLDER or --csv"):
        read("folder")
    with pytest.raises(UserError, match="no such folder"):
        read("folder", "--root", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no files that end in"):
        read("folder", "--root", str(tmp_path))
    with pytest.raises(UserError, match="did you mean 'folder'"):
        load("foldr")


def test_names_that_collapse_stay_apart(tmp_path: Path, read: Read) -> None:
    for name in ("a b.png", "a_b.png", "a+b.png", "a_b.jpg"):
        picture(tmp_path / name)
    keys = [sample["__key__"] for sample in read("folder", "--root", str(tmp_path))["train"]]
    assert len(keys) == 4 == len(set(keys))
    assert Image.open(io.BytesIO(picture(tmp_path / "z.png"))).size == (5, 4)
