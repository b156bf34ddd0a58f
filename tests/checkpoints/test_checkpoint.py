"""Checkpoints: whole or absent, verified, and honest about damage."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from foundation.checkpoints import checkpoint
from foundation.checkpoints.manifest import own_checksum
from foundation.errors import UserError

TENSORS = {
    "student": {"a": torch.arange(6.0).view(2, 3)},
    "optimizer": {"b": torch.ones(4, dtype=torch.int64)},
    "random": {"rank0.torch": torch.arange(5, dtype=torch.uint8)},
}
EVERY_FILE = ["student.safetensors", "optimizer.safetensors", "random.safetensors", "state.json", "MANIFEST.json"]


def test_round_trip(tmp_path):
    folder = checkpoint.write(tmp_path, 12, TENSORS, {"step": 12, "position": 96})
    assert folder.name == "step-00000012"
    tensors, state = checkpoint.read(folder)
    assert state == {"step": 12, "position": 96}
    for name, group in TENSORS.items():
        for key, tensor in group.items():
            assert torch.equal(tensors[name][key], tensor) and tensors[name][key].dtype == tensor.dtype
    manifest = checkpoint.manifest_of(folder)
    assert manifest["tensors"]["student"] == {"a": ["float32", [2, 3]]}
    assert manifest["seconds"] > 0 and manifest["step"] == 12


def test_tied_expanded_and_sliced_tensors_are_written_as_what_they_hold(tmp_path):
    weight = nn.Parameter(torch.randn(4, 6))
    odd = {"one": weight, "tied": weight, "slice": weight[:, 1::2], "none": torch.zeros(()).expand(3, 2)}
    odd |= {"half": torch.randn(3).bfloat16(), "empty": torch.empty(0, dtype=torch.uint8)}
    read = checkpoint.read(checkpoint.write(tmp_path, 1, {"student": odd}, {}))[0]["student"]
    assert all(torch.equal(read[key], tensor) for key, tensor in odd.items()) and read.keys() == odd.keys()


def damage_flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-len(content) // 3] ^= 1
    path.write_bytes(content)


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.fault(7, "a byte flipped, a byte cut off, or the file removed, in each file of a checkpoint")
@pytest.mark.parametrize("damage", [damage_flip, damage_cut, Path.unlink])
@pytest.mark.parametrize("name", EVERY_FILE)
def test_any_damage_to_any_file_is_named_and_the_one_before_is_used(tmp_path, damage, name, happened):
    good = checkpoint.write(tmp_path, 1, TENSORS, {"step": 1, "words": "x" * 99})
    bad = checkpoint.write(tmp_path, 2, TENSORS, {"step": 2, "words": "x" * 99})
    assert {path.name for path in bad.iterdir()} == set(EVERY_FILE)
    damage(bad / name)
    found, skipped = checkpoint.newest(tmp_path)
    assert found == good
    assert [path for path, _ in skipped] == [bad] and name in skipped[0][1]
    if damage is damage_flip and name != "MANIFEST.json":
        assert skipped[0][1] == f"checksum mismatch in {name}"
        happened("`checksum mismatch in FILE`; the step before is used")
    else:
        happened("the file and what is wrong with it are named; the step before is used")
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        checkpoint.read(bad)


def test_no_byte_of_a_manifest_can_change_its_meaning_unseen(tmp_path):
    folder = checkpoint.write(tmp_path, 1, TENSORS, {"step": 1})
    path = folder / checkpoint.MANIFEST
    before = path.read_bytes()
    meaning = json.loads(before)
    for index in range(0, len(before), 3):
        flipped = bytearray(before)
        flipped[index] ^= 1
        path.write_bytes(flipped)
        reason = checkpoint.problem(folder, hashes=False)
        try:
            same = json.loads(bytes(flipped)) == meaning
        except ValueError:
            same = False
        assert same or (reason is not None and checkpoint.MANIFEST in reason), index


def forge(folder: Path, change: Callable[[dict], object]) -> None:
    """Change a manifest and sign it anew, as someone who means harm or a broken tool would."""
    path = folder / checkpoint.MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    manifest["manifest_sha256"] = own_checksum(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(step=7), "is of step 7"),
        (lambda m: m.update(format=99), "has format 99"),
        (lambda m: m["files"].update({"../../etc/passwd": {"bytes": 1, "sha256": ""}}), "outside its folder"),
        (lambda m: m["files"].pop("state.json"), "does not list state.json"),
        (lambda m: m["files"].pop("optimizer.safetensors"), "does not list optimizer.safetensors"),
        (lambda m: m["tensors"].update({"teacher": {}}), "does not list teacher.safetensors"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_reason(tmp_path, change, reason):
    folder = checkpoint.write(tmp_path, 1, TENSORS, {"step": 1})
    forge(folder, change)
    assert reason in (checkpoint.problem(folder) or "")


def test_a_renamed_checkpoint_is_not_taken_for_another_step(tmp_path):
    checkpoint.write(tmp_path, 1, TENSORS, {"step": 1}).rename(tmp_path / "step-00000009")
    found, skipped = checkpoint.newest(tmp_path)
    assert found is None and "MANIFEST.json is of step 1" in skipped[0][1]


@pytest.mark.fault(7, "a half-written folder under a temporary name, and one under a final name")
def test_half_written_folder_is_no_checkpoint_and_is_cleaned(tmp_path, happened):
    good = checkpoint.write(tmp_path, 1, TENSORS, {"step": 1})
    shutil.copytree(good, tmp_path / "step-00000002.tmp-abcd1234")
    (tmp_path / "step-00000003").mkdir()
    found, skipped = checkpoint.newest(tmp_path)
    assert found == good and skipped == [(tmp_path / "step-00000003", "MANIFEST.json is missing")]
    assert checkpoint.clean(tmp_path) == ["step-00000002.tmp-abcd1234"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]
    happened("the leftover is removed and named; `MANIFEST.json is missing` for the other; the step before is used")


def test_an_existing_good_step_is_not_written_again(tmp_path):
    folder = checkpoint.write(tmp_path, 1, TENSORS, {"step": 1, "first": True})
    checkpoint.write(tmp_path, 1, TENSORS, {"step": 1, "first": False})
    assert checkpoint.read(folder)[1]["first"] is True


def test_an_existing_damaged_step_is_replaced(tmp_path):
    folder = checkpoint.write(tmp_path, 1, TENSORS, {"step": 1, "first": True})
    damage_flip(folder / "student.safetensors")
    checkpoint.write(tmp_path, 1, TENSORS, {"step": 1, "first": False})
    assert checkpoint.read(folder)[1]["first"] is False
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_steps_are_ordered_by_number_and_strangers_are_left_alone(tmp_path):
    for name in ("step-100000000", "step-00000020", "step-00000003", "step-00000001.tmp-1", "step-old", "notes"):
        (tmp_path / name).mkdir()
    assert [checkpoint.step_of(path) for path in checkpoint.steps(tmp_path)] == [3, 20, 100_000_000]


SERVER = """
import os, sys, torch
from pathlib import Path
from foundation.checkpoints import checkpoint
from foundation.checkpoints.saver import Config, Saver
from foundation.schedules import Clock
torch.set_num_threads(1)

def tell(text):
    os.write(1, text.encode() + b"\\n")  # in one piece: two processes write here

def state(step):
    return {name: {"a": torch.full((800_000,), float(step))} for name in ("student", "teacher", "optimizer")}

for line in sys.stdin:
    what, root = line.split()
    root = Path(root)
    pid = os.fork()
    if pid == 0:
        if what == "again":
            while True:
                tell("saving 5")
                checkpoint.write(root, 5, state(5), {"step": 5})
        saver = Saver(root, Config(), Clock(10**6, 10.0), tell)
        step = max(map(checkpoint.step_of, checkpoint.steps(root)), default=0)
        while True:
            step += 1
            saver.save(step, state(step), {"step": step})
            tell(f"saving {step}")
            saver.wait()
    tell(f"pid {pid}")
    os.waitpid(pid, 0)
    tell("dead")
"""


class Writers:
    """Starts real processes that save without pause, from one that has imported torch already."""

    def __init__(self) -> None:
        self.pid = 0
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def killed(self, what: str, root: Path, saves: int, when: Callable[[], bool]) -> int:
        """Kill a writer during its save number ``saves``, when ``when()`` says so; the step that it was saving."""
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write(f"{what} {root}\n")
        self.server.stdin.flush()
        self.pid, step, seen = 0, 0, 0
        while not self.pid or seen < saves:
            word, number = self.server.stdout.readline().split()
            self.pid = int(number) if word == "pid" else self.pid
            step, seen = (int(number), seen + 1) if word == "saving" else (step, seen)
        while not when():
            time.sleep(0.0002)
        os.kill(self.pid, signal.SIGKILL)
        while (line := self.server.stdout.readline().strip()) != "dead":
            step = int(line.split()[1])
        self.pid = 0
        return step

    def close(self) -> None:
        assert self.server.stdin is not None
        if self.pid:  # a test has failed half-way
            os.kill(self.pid, signal.SIGKILL)
        self.server.stdin.close()
        assert self.server.wait(timeout=30) == 0


@pytest.fixture(scope="module")
def writers() -> Iterator[Writers]:
    started = Writers()
    yield started
    started.close()


def written(root: Path) -> int:
    """Bytes under temporary names."""
    total = 0
    for path in root.glob("*.tmp-*/*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # renamed meanwhile
            continue
    return total


@pytest.mark.slow
@pytest.mark.fault(3, "kill -9 at 20 places of a save, by the bytes that it has written")
def test_sigkill_while_writing_leaves_the_newest_valid_step(tmp_path, writers, happened):
    """The step before the one that was being saved always loads, with the values of that step."""
    from foundation.checkpoints.saver import Config, Saver
    from foundation.schedules import Clock

    whole, leftovers = 3 * 4 * 800_000, 0
    for index in range(20):
        deadline = time.monotonic() + 10.0
        wanted = index * whole // 20
        step = writers.killed(
            "on", tmp_path, 2, lambda wanted=wanted, end=deadline: written(tmp_path) > wanted or time.monotonic() > end
        )
        names = [path.name for path in tmp_path.glob("*.tmp-*")]
        said: list[str] = []
        saver = Saver(tmp_path, Config(), Clock(10**6, 10.0), said.append)
        found = saver.recover()
        assert found is not None and checkpoint.step_of(found) in (step - 1, step), said
        tensors, numbers = checkpoint.read(found)
        assert numbers["step"] == checkpoint.step_of(found)
        assert all(bool((group["a"] == numbers["step"]).all()) for group in tensors.values())
        assert all(any(text.startswith(f"removed {name}") for text in said) for name in names)
        assert not list(tmp_path.glob("*.tmp-*"))
        assert checkpoint.problem(checkpoint.steps(tmp_path)[-1]) is None, "a killed save has left a step by its name"
        leftovers += bool(names)
    assert leftovers >= 10, "most kills must have hit a save"
    happened("the newest whole step loads each time; leftovers are removed and named at the next start")


@pytest.mark.fault(4, "kill -9 while a step that exists is saved again, at 6 moments")
def test_sigkill_while_an_existing_step_is_saved_again(tmp_path, writers, happened):
    folder = checkpoint.write(tmp_path, 5, {"student": {"a": torch.full((3_000_000,), 5.0)}}, {"step": 5})
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    for saves in range(1, 7):
        writers.killed("again", tmp_path, saves, lambda: True)
        assert checkpoint.newest(tmp_path) == (folder, [])
    assert before == {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    happened("a valid checkpoint is never written over: not a byte of it changes")
