"""``foundation data`` as a user calls it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foundation.data.build import available, shown_name
from foundation.data.shards import open_shards, write_shards

Command = Callable[..., Any]
OWN = """
CARD = dict(title="Mine", licence="mine", source="here", citation="", modality="image", splits=["train"], layout="txt",
            size="3")

def add_arguments(parser):
    parser.add_argument("--number", type=int, default=3)

def samples(arguments):
    return {"train": ({"__key__": f"k{n}", "txt": b"hello", "cls": b"0"} for n in range(arguments.number))}

def classes(arguments):
    return ["greeting"]
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


@pytest.mark.slow
def test_build_digits_and_inspect_them(tmp_path: Path, command: Command, program: Command) -> None:
    pytest.importorskip("sklearn")
    out = tmp_path / "digits"
    words = ("data", "build", "digits", out, "--copies", 1, "--test-copies", 1, "--samples-per-shard", 600)
    done = program(*words)
    assert done.returncode == 0, done.stderr
    assert "train-*.tar: 1,437 samples in 3 shards" in done.stdout
    shards = open_shards(str(out / "train-*.tar"))
    assert shards.counts.tolist() == [600, 600, 237] and shards.classes[9] == "9"
    about = json.loads((out / "index.json").read_text())["about"]
    assert (about["dataset"], about["options"]["copies"], about["options"]["scale"]) == ("digits", 1, [0.55, 0.85])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["digits", "here"]

    again = command(*words)
    assert again.returncode == 2 and "--overwrite" in again.stderr and "Traceback" not in again.stderr

    shown = command("data", "inspect", out, "--sheet", "--verify")
    assert shown.returncode == 0, shown.stderr
    for expected in ("1,797", "train-000002.tar", ".jpg", "32 to 32 wide", "labels of 1,797 samples"):
        assert expected in shown.stdout
    sheet = Image.open(tmp_path / "here" / "contact-sheet.png")
    assert sheet.width > 500 and len(sheet.convert("RGB").getcolors(1 << 20)) > 1000
    refused = command("data", "inspect", out, "--sheet")
    assert refused.returncode == 2 and "contact-sheet.png exists" in refused.stderr


def test_your_own_file_and_its_options(tmp_path: Path, command: Command, own: Path) -> None:
    done = command("data", "build", own, tmp_path / "out", "--number", 5)
    assert done.returncode == 0, done.stderr
    assert open_shards(tmp_path / "out").num_samples == 5
    helped = command("data", "build", own, "--help")
    assert "--number" in helped.stdout and "--overwrite" in helped.stdout
    own.write_text("CARD = {}")
    broken = command("data", "build", own, tmp_path / "out2")
    assert broken.returncode == 2 and "does not define add_arguments, samples" in broken.stderr


def test_names_and_arguments_that_are_wrong(tmp_path: Path, command: Command) -> None:
    done = command("data", "build", "digist", tmp_path / "x")
    assert done.returncode == 2 and "did you mean 'digits'" in done.stderr and "Traceback" not in done.stderr
    done = command("data", "build", "digits")
    assert done.returncode == 2 and "NAME OUT" in done.stderr
    listed = command("data", "build", "--list")
    assert listed.returncode == 0 and all(name in listed.stdout for name in ("digits", "folder", "cifar10"))
    done = command("data", "inspect", "nothing-*.tar")
    assert done.returncode == 2 and "no shards match 'nothing-*.tar'" in done.stderr


@pytest.mark.parametrize("name", sorted(available()))
def test_files_beside_the_folder_of_the_shards_are_told_their_option(name: str, tmp_path: Path, command: Command):
    done = command("data", "build", name, tmp_path / "mine", tmp_path / "out")
    files = next(
        (word for word in ("--root", "--source") if f"{word} " in command("data", "build", name, "-h").stdout), ""
    )
    shown = shown_name(name)
    takes = (
        f"takes its files by {files}: foundation data build {shown} OUT {files} FILES"
        if files
        else (f"takes no files of yours: foundation data build {shown} OUT")
    )
    assert done.returncode == 2 and takes in done.stderr, done.stderr
    assert not list(tmp_path.glob("[!h]*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("data build digits out --copis 2", "--copis 2; did you mean '--copies'? (foundation data build --help)"),
        ("data inspect x --shet", "--shet; did you mean '--sheet'? (foundation data inspect --help)"),
        ("bench loader quickstart --batchs=3", "did you mean '--batch'? (foundation bench loader --help)"),
        ("recipes list --hlep", "did you mean '--help'? (foundation recipes list --help)"),
        ("checkpoint prune x --keap 3", "(foundation checkpoint prune --help)"),
        ("runs best --metric=x --metrik=y a", "did you mean '--metric'? (foundation runs best --help)"),
        ("recipes show a b", "b; without an option it takes name (foundation recipes show --help)"),
        ("knn run shards", "shards; without an option it takes MODEL (foundation knn --help)"),
    ],
)
def test_options_that_are_nearly_right_are_those_of_the_command_that_was_named(words: str, said: str, command: Command):
    done = command(*words.split())
    assert done.returncode == 2 and said in done.stderr, done.stderr


def test_inspect_names_damage(tmp_path: Path, command: Command, own: Path) -> None:
    command("data", "build", own, tmp_path / "out", "--number", 6, "--samples-per-shard", 2)
    good = (tmp_path / "out" / "train-000001.tar").stat().st_size
    (tmp_path / "out" / "train-000000.tar").write_bytes(os.urandom(4096))
    os.truncate(tmp_path / "out" / "train-000001.tar", 1800)
    done = command("data", "inspect", tmp_path / "out")
    assert done.returncode == 3, done.stdout
    assert "train-000000.tar: this is not a tar archive" in done.stderr
    assert "train-000001.tar: cut off after sample 1" in done.stderr and good > 1800
    assert "train-000002.tar" in done.stdout
    sheet = command("data", "inspect", tmp_path / "out", "--sheet")
    assert sheet.returncode == 2 and "no sample of these shards has a picture" in sheet.stderr


def test_verify_finds_a_flipped_byte(tmp_path: Path, command: Command, own: Path) -> None:
    command("data", "build", own, tmp_path / "out")
    path = tmp_path / "out" / "train-000000.tar"
    data = bytearray(path.read_bytes())
    data[data.index(b"hello")] ^= 1
    path.write_bytes(data)
    assert command("data", "inspect", tmp_path / "out").returncode == 0
    done = command("data", "inspect", tmp_path / "out", "--verify")
    assert done.returncode == 3 and "SHA-256 is not that of index.json" in done.stderr


def test_index_of_foreign_shards(tmp_path: Path, command: Command, own: Path) -> None:
    command("data", "build", own, tmp_path / "out", "--number", 6, "--samples-per-shard", 2)
    before = json.loads((tmp_path / "out" / "index.json").read_text())
    (tmp_path / "out" / "index.json").write_text("{ damaged")
    done = command("data", "inspect", tmp_path / "out")
    assert done.returncode == 2 and "foundation data index" in done.stderr
    done = command("data", "index", tmp_path / "out")
    assert done.returncode == 0 and "train: 6 samples, 3 shards" in done.stdout
    after = json.loads((tmp_path / "out" / "index.json").read_text())
    assert after["splits"] == before["splits"]
    assert open_shards(tmp_path / "out").num_samples == 6


def test_verify_says_each_cause_once_with_the_first_samples(tmp_path: Path, command: Callable[..., Any]) -> None:
    broken = ({"__key__": f"s{i}", "png": b"\x89PNG\r\n\x1a\n" + bytes(20 + i)} for i in range(7))
    write_shards(broken, tmp_path / "out", "train")
    found = command("data", "verify", tmp_path / "out", "--decode", "--workers", "1")
    lines = found.stdout.splitlines()
    assert found.returncode == 3 and lines[0].startswith("1 shard, 7 samples, ")
    (head,) = [index for index, line in enumerate(lines) if line.startswith("7 problems, decode: ")]
    assert "train-000000.tar: s0, s1, s2, s3, s4 (and 2 more)" in lines[head + 2]
    assert len(lines) <= head + 4, found.stdout


def test_statistics_speak_plainly_and_the_list_names_own_data_first(command: Callable[..., Any], tmp_path) -> None:
    from foundation.data.shown import facts

    counts = {"rate (Hz)": {"8000": 109, "16000": 1}, "seconds": {"least": 0.5, "median": 1}, "channels": ["a", "b"]}
    assert list(facts(counts)) == [
        "rate (Hz): 8000 (109 samples), 16000 (1 sample)", "seconds: least 0.5, median 1", "channels: a, b",
    ]  # fmt: skip
    listed = command("data", "build", "--list").stdout.splitlines()
    names = [line.strip() for line in listed if line.startswith("  ") and not line.startswith("   ")]
    own = ["audio-folder", "ego-video-imu", "folder", "imu-folder", "point-folder", "video-folder"]
    assert names[: len(own)] == own and "speech-commands" in names and not any("_" in name for name in names)
