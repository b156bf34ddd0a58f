"""Walking through a folder: every file once, a word for each that is not taken."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from foundation.data.tally import Tally
from foundation.data.walk import walk


def lay(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def walked(root: Path) -> tuple[list[str], Tally]:
    left_out = Tally()
    return [found.name for found in walk(root, left_out)], left_out


def test_what_systems_leave_in_folders_is_left_out_and_counted(tmp_path: Path) -> None:
    mine = ["cat/1.jpg", "cat/sub/2.jpg", "dog/__init__.jpg"]
    theirs = [".DS_Store", "cat/Thumbs.db", "cat/desktop.ini", "cat/._1.jpg", "__MACOSX/cat/1.jpg", "@eaDir/1.jpg"]
    theirs += ["lost+found/#12.jpg", ".git/objects/a", ".git/objects/b", "dog/.ipynb_checkpoints/1-checkpoint.jpg"]
    lay(tmp_path, *mine, *theirs)
    names, left_out = walked(tmp_path)
    assert names == mine
    assert dict(left_out.counts) == {"hidden": len(theirs)}
    assert ".git/: 2 files" in left_out.first["hidden"]


def test_a_folder_whose_own_name_is_hidden_can_be_walked(tmp_path: Path) -> None:
    lay(tmp_path, ".cache/pictures/1.jpg")
    assert walked(tmp_path / ".cache" / "pictures")[0] == ["1.jpg"]


@pytest.mark.fault(42, "links that lead in circles, to what was seen, and nowhere")
def test_links_are_followed_once(tmp_path: Path, happened) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    lay(root, "b/1.jpg", "b/2.jpg")
    lay(elsewhere, "3.jpg", "deeper/4.jpg")
    (root / "a").symlink_to("b")  # sorts before what it leads to, which keeps its name all the same
    (root / "b" / "up").symlink_to("..")
    (root / "b" / "copy.jpg").symlink_to("1.jpg")
    (root / "out").symlink_to(elsewhere)
    (root / "out again").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)
    (root / "gone.jpg").symlink_to("nowhere.jpg")
    (root / "circle").symlink_to("circle")
    os.link(root / "b" / "2.jpg", root / "b" / "own copy.jpg")  # as good as a copy
    names, left_out = walked(root)
    assert names == ["b/1.jpg", "b/2.jpg", "b/own copy.jpg", "out/3.jpg", "out/deeper/4.jpg"]
    assert dict(left_out.counts) == {"link seen already": 5, "broken link": 2}
    assert set(left_out.first["link seen already"]) == {"a/", "b/copy.jpg", "b/up/", "out again/", "out/back/"}
    happened("each folder and file is taken once, under its own name; the others are counted and named")


@pytest.mark.fault(42, "a FIFO, a socket and a device among the files")
def test_what_is_no_file_is_never_opened(tmp_path: Path, happened) -> None:
    lay(tmp_path, "1.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "null.jpg").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s.jpg"))
        names, left_out = walked(tmp_path)
    assert names == ["1.jpg"]
    assert set(left_out.first["not a regular file"]) == {"pipe.jpg: a FIFO", "s.jpg: a socket", "null.jpg: a device"}
    happened("left out, counted and named")


@pytest.mark.fault(17, "a folder that cannot be read")
def test_a_folder_that_cannot_be_read_is_counted(tmp_path: Path, happened) -> None:
    """Root may read everything, but nobody may name a path of more than 4,096 letters."""
    lay(tmp_path / "root", "1.jpg")
    here = os.open(tmp_path / "root", os.O_RDONLY)
    try:
        for _ in range(20):
            os.mkdir("n" * 250, dir_fd=here)
            deeper = os.open("n" * 250, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = deeper
        names, left_out = walked(tmp_path / "root")
    finally:
        os.close(here)
        shutil.rmtree(tmp_path / "root")
    assert names == ["1.jpg"] and dict(left_out.counts) == {"unreadable": 1}
    assert left_out.first["unreadable"][0].endswith("File name too long")
    happened("counted as unreadable and named with the system's word")


def test_names_that_are_no_text_are_shown_so_that_they_can_be_written(tmp_path: Path) -> None:
    lay(tmp_path, os.fsdecode(b"\xff.jpg"))
    names, _ = walked(tmp_path)
    tally = Tally()
    tally.add("decode", names[0], "bad \x1b[31m news")
    assert tally.first == {"decode": ["\N{REPLACEMENT CHARACTER}.jpg: bad \N{REPLACEMENT CHARACTER}[31m news"]}


def test_a_tally_names_the_first_few_and_counts_the_rest() -> None:
    tally = Tally()
    for number in range(12):
        tally.add(".heic", f"{number}.heic")
    tally.add("empty", "0.jpg", "no bytes")
    assert tally.lines()[:2] == ["12 .heic", "  0.heic"] and tally.lines()[5] == "  4.heic (and 7 more)"
    assert tally.lines()[6:] == ["1 empty", "  0.jpg: no bytes"]
    assert tally.brief() == "12 .heic (0.heic, ...), 1 empty (0.jpg: no bytes)"
