"""Your own files: three layouts, bytes untouched, safe keys."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foundation.data.build import load
from foundation.data.kinds import extensions_of
from foundation.data.shards import open_shards
from foundation.errors import UserError
from tests.datasets.conftest import prepare

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
    for name in ("train/a/1.png", "train/b/1.png", "Test/a/9.png"):
        picture(tmp_path / "split" / name)
    assert {s: len(rows) for s, rows in read("folder", "--root", str(tmp_path / "split")).items()} == {
        "train": 2,
        "test": 1,
    }
    for number in range(3):
        picture(tmp_path / "flat" / f"{number}.png")
    samples = read("folder", "--root", str(tmp_path / "flat"))["train"]
    assert len(samples) == 3 and all("cls" not in sample for sample in samples)


def test_files_beside_class_folders_have_no_label(tmp_path: Path, read: Read) -> None:
    picture(tmp_path / "a" / "1.png")
    picture(tmp_path / "stray.png")
    found = {sample["__key__"]: sample.get("cls") for sample in read("folder", "--root", str(tmp_path))["train"]}
    assert found == {"a-1": b"0", "stray": None}


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


def test_a_test_fraction_is_that_of_every_class_and_few_files_move_when_others_come(tmp_path: Path, read: Read) -> None:
    def keys() -> dict[str, set[str]]:
        splits = read("folder", "--root", str(tmp_path), "--test-fraction", "0.3")
        return {split: {sample["__key__"] for sample in samples} for split, samples in splits.items()}

    for number in range(40):
        picture(tmp_path / f"k{number % 2}" / f"{number}.png")
    picture(tmp_path / "alone" / "1.png")
    before = keys()
    assert before == keys() and not before["train"] & before["test"]
    of = {name: sum(key.startswith(f"{name}-") for key in before["test"]) for name in ("k0", "k1", "alone")}
    assert of == {"k0": 6, "k1": 6, "alone": 0}, "30 % of each 20; the only file of a class stays for training"
    for number in range(40, 60):
        picture(tmp_path / "k0" / f"{number}.png")
    after = keys()
    moved = (before["test"] & after["train"]) | (before["train"] & after["test"])
    assert len(moved) <= 3 and sum(key.startswith("k0-") for key in after["test"]) == 12


def test_classes_without_a_file_on_one_side_are_named(tmp_path: Path, command: Callable[..., Any]) -> None:
    for name in ("cat/1", "cat/2", "cat/3", "dog/1"):
        picture(tmp_path / "in" / f"{name}.png")
    said = command(
        "data", "build", "folder", str(tmp_path / "out"), "--root", str(tmp_path / "in"), "--test-fraction", "0.3"
    )
    assert "1 class without a file in test\n    dog: 1 file in train" in said.stderr
    assert "train-*.tar: 3 samples in 1 shard, " in said.stdout and ", 75.0 % of all" in said.stdout
    assert "test-*.tar: 1 sample in 1 shard, " in said.stdout and ", 25.0 % of all" in said.stdout


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


def test_every_file_that_is_left_out_is_counted_by_reason(tmp_path: Path, command: Callable[..., Any]) -> None:
    for number in range(2):
        picture(tmp_path / "in" / "a" / f"{number}.png")
    for name in ("a/1.heic", "a/2.HEIC", "a/notes.txt", "a/LICENCE", ".DS_Store", "a/._0.png"):
        (tmp_path / "in" / name).write_bytes(b"x")
    whole = picture(tmp_path / "in" / "a" / "cut.png", 3)
    (tmp_path / "in" / "a" / "cut.png").write_bytes(whole[:-20])  # its header is good
    done = command("data", "build", "folder", tmp_path / "out", "--root", tmp_path / "in")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("left out: 7 files\n  2 .heic\n    a/1.heic\n    a/2.HEIC\n  2 hidden\n")
    about = json.loads((tmp_path / "out" / "index.json").read_text())["about"]["left_out"]
    assert {reason: row["files"] for reason, row in about.items()} == {
        ".heic": 2,
        ".txt": 1,
        "hidden": 2,
        "truncated": 1,
        "without an extension": 1,
    }
    quick = command("data", "build", "folder", tmp_path / "quick", "--root", tmp_path / "in", "--quick")
    assert quick.returncode == 0 and "3 samples" in quick.stdout and "truncated" not in quick.stderr


def test_files_beside_those_that_are_taken_are_not_left_out(tmp_path: Path, command: Callable[..., Any]) -> None:
    for name in ("a/1.png", "a/2.png"):
        picture(tmp_path / "root" / name)
    for name in ("a/1.json", "a/2.png.json", "a/1.xmp", "a/other.json", "a/1.heic"):
        (tmp_path / "root" / name).write_text("{}")
    done = command("data", "build", "folder", tmp_path / "out", "--root", tmp_path / "root")
    assert done.returncode == 0, done.stderr
    left, known = done.stderr.split("worth knowing of files that were taken: 3 files")
    assert "left out: 2 files" in left and "1 .json\n    a/other.json" in left and "1 .heic" in left
    assert "2 .json beside a file that is taken, not read" in known and "1 .xmp beside" in known


def test_when_all_files_are_left_out_the_reasons_are_said(tmp_path: Path, command: Callable[..., Any]) -> None:
    for name in ("in/a/1.heic", "in/a/2.heic", "in/.x.jpg", "bad/a/1.jpg", "bad/a/2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"no picture")
    done = command("data", "build", "folder", tmp_path / "out", "--root", tmp_path / "in")
    assert done.returncode == 2 and "left out: 2 .heic (a/1.heic, ...), 1 hidden (.x.jpg)" in done.stderr
    done = command("data", "build", "folder", tmp_path / "out", "--root", tmp_path / "bad")
    assert done.returncode == 2 and "every file was left out" in done.stderr
    assert "2 decode" in done.stderr and "a/1.jpg: jpg (10 bytes): not a picture" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_manifest_is_looked_at_like_a_folder(tmp_path: Path, read: Read) -> None:
    picture(tmp_path / "1.png")
    picture(tmp_path / "2.JPG")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    rows = ["1.png,7", "2.JPG, 30 ", "1.png,7", "gone.png,7", "folder.png,7", "pipe.png,7", "3.heic,7"]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    splits = prepare("folder", "--csv", str(tmp_path / "list.csv"))
    samples = list(splits["train"])
    assert {json.loads(s["json"])["class"]: s["cls"] for s in samples} == {"7": b"0", "30": b"1"}
    assert splits["train"].left_out.first == {
        "duplicate": ["1.png: line 4 repeats line 2"],
        "missing": ["gone.png: No such file or directory"],
        "not a regular file": ["folder.png: a folder", "pipe.png: a FIFO"],
        ".heic": ["3.heic"],
    }


def test_classes_are_numbered_in_the_order_of_their_numbers_and_names(tmp_path: Path, read: Read) -> None:
    for name in ("10", "9", "0", "cat", "Bird", "9" * 200):
        picture(tmp_path / name / "1.png")
    samples = read("folder", "--root", str(tmp_path))["train"]
    numbers = {json.loads(s["json"])["class"]: int(s["cls"]) for s in samples}
    assert sorted(numbers, key=lambda name: numbers[name]) == ["0", "9", "10", "9" * 200, "Bird", "cat"]
    assert sorted(numbers.values()) == list(range(6))


def test_splits_that_would_number_their_classes_otherwise_are_refused(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    for name in ("one/train/a/1.png", "one/train/b/1.png", "two/test/b/1.png", "three/test/a/1.png"):
        picture(tmp_path / name)
    picture(tmp_path / "three/test/b/1.png")
    assert command("data", "build", "folder", tmp_path / "out", "--root", tmp_path / "one").returncode == 0
    done = command("data", "build", "folder", tmp_path / "out", "--root", tmp_path / "two")
    assert done.returncode == 2 and "holds train with the classes a, b; these have b" in done.stderr
    assert command("data", "build", "folder", tmp_path / "out", "--root", tmp_path / "three").returncode == 0
    assert open_shards(str(tmp_path / "out" / "test-*.tar")).classes == ("a", "b")


def test_files_that_would_share_a_key_get_two_that_never_change_hands(tmp_path: Path, read: Read) -> None:
    def keys() -> dict[str, str]:
        samples = read("folder", "--root", str(tmp_path))["train"]
        found = {json.loads(sample["json"])["path"]: sample["__key__"] for sample in samples}
        assert len({key.casefold() for key in found.values()}) == len(found)
        return found

    for name in (
        "x/a.jpg",
        "x/a.png",
        "x/b.png",
        "x/B.png",
        "x/c_2.png",
        "x/c.png",
        "x/c.jpg",
        "x/d/e.png",
        "x/d-e.png",
    ):
        picture(tmp_path / name)
    before = keys()
    assert {name: before[name] for name in ("x/c_2.png",)} == {"x/c_2.png": "x-c_2"}
    for name in ("x/aa.png", "x/0.png", "x/b.jpg"):
        picture(tmp_path / name)
    after = keys()
    assert {name: after[name] for name in before} == before and after["x/aa.png"] == "x-aa"


def test_extensions_are_narrowed_widened_and_explained(tmp_path: Path, read: Read) -> None:
    for name in ("1.jpg", "2.png"):
        picture(tmp_path / name)
    (tmp_path / "3.DAT").write_bytes((tmp_path / "2.png").read_bytes())

    def taken(*words: str) -> list[str]:
        samples = read("folder", "--root", str(tmp_path), *words)["train"]
        return sorted(f"{json.loads(s['json'])['path']} as {list(s)[1]}" for s in samples)

    assert taken() == ["1.jpg as jpg", "2.png as png"]
    assert taken("--extensions", ".PNG") == ["2.png as png"]
    assert taken("--extensions", "+.Dat=png") == ["1.jpg as jpg", "2.png as png", "3.DAT as png"]
    with pytest.raises(UserError, match=r"--extensions dat: no extension of this modality .* \+dat=jpg"):
        taken("--extensions", "+dat")


def test_every_extension_of_the_table_is_taken_and_read(tmp_path: Path, command: Callable[..., Any]) -> None:
    forms = {"jpe": "JPEG", "jfif": "JPEG", "pnm": "PPM", "dib": "DIB", "apng": "PNG", "mpo": "MPO"}
    for extension in extensions_of("image"):
        form = forms.get(extension) or Image.registered_extensions()[f".{extension}"]
        mode = {"pgm": "L", "pbm": "1"}.get(extension, "RGB")
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.new(mode, (16, 12)).save(tmp_path / "in" / f"{extension}.{extension.upper()}", form)
    done = command("data", "build", "folder", tmp_path / "out", "--root", tmp_path / "in")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert open_shards(tmp_path / "out").num_samples == len(extensions_of("image"))
    done = command("data", "verify", tmp_path / "out", "--decode", "--workers", 1)
    assert done.returncode == 0 and "warning" not in done.stdout, done.stdout


def test_a_picture_that_its_rule_would_flatten_is_said_while_building(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    (tmp_path / "in").mkdir()
    heights = np.linspace(0, 10, 400, dtype=np.float32).reshape(20, 20)
    heights[0, 0] = 1e6
    Image.fromarray(heights).save(tmp_path / "in" / "one.tif")
    done = command("data", "build", "folder", tmp_path / "out", "--root", tmp_path / "in")
    assert "worth knowing of files that were taken: 1 file\n  1 range\n    one.tif: 2 of " in done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "Path;Label;Split\nx/1.png;tree;Train\nx/2.png;bush;TEST\n",
        "path\tlabel\tsplit\nx/1.png\ttree\ttrain\nx/2.png\tbush\ttest\n",
        "\ufeffpath, label, split\r\n\r\nx/1.png, tree, train\r\nx/2.png, bush, test\r\n",
        "path,label,split\rx/1.png,tree,train\rx/2.png,bush,test\r",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_manifests_as_spreadsheets_write_them(tmp_path: Path, read: Read, text: str, encoding: str) -> None:
    for name in ("x/1.png", "x/2.png"):
        picture(tmp_path / name)
    (tmp_path / "list.csv").write_bytes(text.removeprefix("\ufeff" if encoding == "utf-16" else "").encode(encoding))
    splits = read("folder", "--csv", str(tmp_path / "list.csv"))
    found = {split: [json.loads(row["json"])["class"] for row in rows] for split, rows in splits.items()}
    assert found == {"train": ["tree"], "test": ["bush"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\nx/1.png,tree, big\n", "line 2: 3 cells for 2 columns: put quotes"),
        ("path,path\nx/1.png,x/2.png\n", "two columns are called 'path'"),
        ("path,label\n\n,tree\n", "line 3: empty path"),
    ],
)
def test_a_manifest_that_would_lose_something_is_refused(tmp_path: Path, read: Read, text: str, message: str) -> None:
    picture(tmp_path / "x/1.png")
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read("folder", "--csv", str(tmp_path / "list.csv"))


def test_a_manifest_names_a_file_twice_or_by_no_name_at_all(tmp_path: Path, command: Callable[..., Any]) -> None:
    picture(tmp_path / "x/1.png")
    (tmp_path / "list.csv").write_text(f"path\nx/1.png\n{tmp_path}/x/1.png\nx/../x/1.png\nx/\0.png\n")
    done = command("data", "build", "folder", tmp_path / "out", "--csv", tmp_path / "list.csv")
    assert done.returncode == 0, done.stderr
    for words in ("2 duplicate", "line 3 repeats line 2", "1 missing"):
        assert words in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (("mine/train/cat", "mine/test/cat"), ("mine/test/: with 1 file in the split 'train'", "mine/train/")),
        (("training/cat", "testing/cat"), ("testing/: with 1 file in the split 'train'", "training/")),
        (("cat/train", "cat/Test"), ("cat/Test/: with 1 file in the split 'train'",)),
        (("train/cat", "Test/cat"), ()),
    ],
)
def test_a_folder_that_is_called_like_a_split_and_is_none_is_said(
    tmp_path: Path, command: Callable[..., Any], folders: tuple[str, ...], said: tuple[str, ...]
) -> None:
    for number, folder in enumerate(folders):
        picture(tmp_path / "in" / folder / f"{number}.png")
    done = command("data", "build", "folder", tmp_path / "out", "--root", tmp_path / "in")
    assert done.returncode == 0, done.stderr
    for words in said:
        assert words in " ".join(done.stderr.split()), done.stderr
    assert said or "called like a split" not in done.stderr
