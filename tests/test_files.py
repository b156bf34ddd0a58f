"""Files and folders that other processes change at the same time."""

from __future__ import annotations

import os
import threading

from foundation.files import matching


def test_a_folder_that_vanishes_while_it_is_read_holds_nothing(tmp_path):
    """The processes of a run remove the folder of their stacks, once empty, while others look into it."""
    folder, done = tmp_path / "stalls", threading.Event()

    def toggle() -> None:
        while not done.is_set():
            folder.mkdir()
            folder.rmdir()

    thread = threading.Thread(target=toggle)
    thread.start()
    try:
        assert not any(matching(folder, "rank0-*.txt") for _ in range(5000))
    finally:
        done.set()
        thread.join()


def test_names_are_matched_and_the_folder_is_taken_as_it_is(tmp_path):
    folder = tmp_path / "run[1]*"
    folder.mkdir()
    for name in ("rank1.json", "rank0.json", "rank0.txt"):
        (folder / name).touch()
    assert [os.path.basename(path) for path in matching(folder, "rank*.json")] == ["rank0.json", "rank1.json"]
