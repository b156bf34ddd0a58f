"""Building shards while the machine fails: killed, disk full, somebody else at it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from foundation.data.build import Built, build, load
from foundation.data.shards import open_shards
from foundation.data.write import write_splits
from foundation.errors import UserError
from tests.faults.conftest import picture
from tests.faults.test_run_folder import SmallDisk

SLOW = """
import sys, time
from pathlib import Path
from foundation.data.write import write_splits

def samples():
    for number in range(100):
        yield {"__key__": f"k{number}", "png": bytes(10_000)}
        if number == 50:
            print("half", flush=True)
            time.sleep(60)

write_splits({"train": samples()}, Path(sys.argv[1]), samples_per_shard=10)
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has written half of ``out`` and waits."""
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "half\n"
    yield process
    process.kill()
    process.wait(timeout=30)


def samples(number: int = 5) -> Iterator[dict[str, object]]:
    return ({"__key__": f"k{index}", "png": bytes(100)} for index in range(number))


@pytest.mark.fault(3, "a build killed with SIGKILL half-way")
def test_what_a_killed_build_left_is_removed_by_the_next(
    tmp_path: Path, writer: subprocess.Popen[str], happened: Callable[[str], None]
) -> None:
    (tmp_path / ".out.building-of-mine").write_text("a file of the user's")
    with pytest.raises(UserError, match=r"another process is writing .*out .*: wait for it, or end it"):
        write_splits({"train": samples()}, tmp_path / "out")
    writer.send_signal(signal.SIGKILL)
    writer.wait(timeout=30)
    left = [path for path in tmp_path.glob(".out.building-*") if path.is_dir()]
    assert len(left) == 1 and len(list(left[0].iterdir())) >= 5 and not (tmp_path / "out").exists()
    write_splits({"train": samples()}, tmp_path / "out")
    assert open_shards(tmp_path / "out").num_samples == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.building-of-mine", "out"]
    happened("no shard appeared; the next build removes what was left, and refuses while the first one lives")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = SmallDisk(tmp_path / "disk", 256)
    yield disk.folder
    subprocess.run(["umount", "-l", str(disk.folder)], check=True)


MOVING = """
import os, signal, sys
from pathlib import Path
from foundation.data import write

real, moved = os.replace, []

def replace(source, target):
    real(source, target)
    moved.extend([target] if str(target).endswith(".tar") else [])
    if len(moved) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

os.replace = replace
samples = ({"__key__": f"k{n}", "png": bytes(100)} for n in range(40))
write.write_splits({"test": samples}, Path(sys.argv[1]), samples_per_shard=10)
"""


@pytest.mark.fault(3, "a build killed with SIGKILL while its shards are moved into a folder that holds another split")
def test_a_kill_between_two_shards_leaves_nothing_in_the_way(tmp_path: Path, happened: Callable[[str], None]) -> None:
    write_splits({"train": samples()}, tmp_path / "out")
    killed = subprocess.run([sys.executable, "-c", MOVING, str(tmp_path / "out")], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "out").glob("test-*.tar"))) == 2
    write_splits({"test": samples(7)}, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "index.json",
        "test-000000.tar",
        "train-000000.tar",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    happened("the same command removes the shards that no index knows, and writes them anew")


def test_where_shards_cannot_lie_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "unmounted").symlink_to(tmp_path / "nowhere" / "shards")
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    for name, words in (
        ("file/shards", "file is a file"),
        ("unmounted", "which is not there: mount the disk"),
        ("../../../../../../../../proc/sys/shards/x", "cannot be written: "),
    ):
        with pytest.raises(UserError, match=words):
            write_splits({"train": samples()}, tmp_path / name)
    write_splits({"train": samples()}, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "index.json").exists()


def built(out: Path, root: Path) -> Built:
    import argparse

    dataset, parser = load("folder"), argparse.ArgumentParser()
    dataset.module.add_arguments(parser)
    arguments = parser.parse_args(["--root", str(root)])
    return build(dataset, out, arguments, samples_per_shard=1000, max_bytes=1 << 30)


@pytest.mark.fault(8, "a disk too small for the shards that are built")
def test_a_full_disk_is_named_with_what_is_needed_and_free(
    tmp_path: Path, small_disk: Path, happened: Callable[[str], None]
) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    for index in range(40):
        (root / f"{index}.png").write_bytes(picture(index, size=(60, 60)))
    with pytest.raises(UserError, match=r"disk/out: 0\.\d\d MB are needed, 0\.26 MB are free in .*disk: make room"):
        built(small_disk / "out", root)
    assert not list(small_disk.iterdir())
    # Where the sizes are not known beforehand, the disk fills while it is written to.
    with pytest.raises(UserError, match=r"disk/out: No space left on device after 0\.2\d MB were written: that is not"):
        write_splits({"train": ({"__key__": f"k{n}", "png": bytes(9_000)} for n in range(100))}, small_disk / "out")
    assert not list(small_disk.iterdir())
    write_splits({"train": samples()}, small_disk)  # a disk of its own, which no folder can be renamed to
    assert sorted(path.name for path in small_disk.iterdir()) == ["index.json", "train-000000.tar"]
    happened("path, needed and free are named; nothing half-written stays")
