"""The saver: training goes on while it writes, nothing is lost in silence, and the right checkpoints stay."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from foundation.checkpoints import checkpoint, retention
from foundation.checkpoints.saver import Config, Saver
from foundation.checkpoints.staging import Staging
from foundation.errors import RequeueRequest, UserError
from foundation.schedules import Clock, Duration

CLOCK = Clock(1000, 100.0)


def state(step: float, count: int = 1000) -> dict[str, dict[str, torch.Tensor]]:
    def group() -> dict[str, torch.Tensor]:
        return {"a": torch.full((count,), float(step)), "b": torch.tensor(step)}

    return {"student": group(), "optimizer": group()}


@pytest.fixture
def saver(tmp_path: Path) -> Iterator[Callable[..., Saver]]:
    """``saver(said, keep_last=3)``: a saver as a process has one; closed at the end."""
    made: list[Saver] = []

    def make(said: list[str] | None = None, root: Path = tmp_path, **settings) -> Saver:
        settings = {"every": Duration(10)} | settings
        made.append(Saver(root, Config(**settings), CLOCK, (said if said is not None else []).append))
        return made[-1]

    yield make
    for each in made:
        each.close()


def names(root: Path) -> list[int]:
    return [checkpoint.step_of(path) for path in checkpoint.steps(root)]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_what_is_saved_is_what_the_tensors_held_when_it_was_asked_for(saver, tmp_path, asynchronous):
    own = saver(asynchronous=asynchronous)
    tensors = state(1)
    for step in (10, 20, 30):
        own.save(step, tensors, {"step": step})
        for group in tensors.values():
            for tensor in group.values():
                tensor.add_(1)  # as the optimiser does, while the checkpoint is being written
    own.wait()
    for step, value in ((20, 2.0), (30, 3.0)):
        read, numbers = checkpoint.read(tmp_path / checkpoint.name_of(step))
        assert numbers == {"step": step}
        assert all(bool((t == value).all()) for group in read.values() for t in group.values())
    assert own.newest == tmp_path / "step-00000030" and own.seconds is not None and own.seconds > 0
    assert own.failure() is None


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Holds the writing of checkpoints back until it is set: a disk of any slowness."""
    opened, write = threading.Event(), checkpoint.write

    def held(*arguments, **keywords):
        assert opened.wait(60)
        return write(*arguments, **keywords)

    monkeypatch.setattr(checkpoint, "write", held)
    return opened


def test_training_goes_on_while_it_is_written_and_the_next_save_waits(saver, tmp_path, gate):
    own = saver()
    own.save(10, state(10), {})  # returns although nothing can be written
    assert own.failure() is None and own.newest is None and not checkpoint.steps(tmp_path)
    second = threading.Thread(target=own.save, args=(20, state(20), {}))
    second.start()
    second.join(0.2)
    assert second.is_alive(), "two saves at once"
    gate.set()
    second.join()
    own.wait()
    assert names(tmp_path) == [10, 20]
    assert checkpoint.read(tmp_path / "step-00000010")[0]["student"]["a"][0] == 10


def test_closing_waits_for_the_save_under_way(saver, tmp_path, gate):
    own = saver()
    own.save(10, state(10), {})
    threading.Timer(0.1, gate.set).start()
    own.close()
    assert names(tmp_path) == [10]


def test_waiting_saves_take_no_copy_and_are_on_disk(saver, tmp_path):
    own = saver()
    own.save(10, state(10), {"step": 10}, wait=True)
    assert names(tmp_path) == [10] and not own._store.staging._views
    own.save(10, state(11), {"step": 10}, wait=True)  # a signal just after a checkpoint: it is there already
    assert checkpoint.read(own.newest)[0]["student"]["a"][0] == 10


def test_buffers_are_allocated_once(saver):
    own = saver()
    own.prepare(state(0))
    places = [t.data_ptr() for group in own._store.staging._views.values() for t in group.values()]
    for step in (10, 20):
        own.save(step, state(step), {})
        own.wait()
    assert places == [t.data_ptr() for group in own._store.staging._views.values() for t in group.values()]
    own.save(30, state(1, count=17), {})  # other shapes: new buffers
    own.wait()
    assert checkpoint.read(own.newest)[0]["student"]["a"].shape == (17,)


def test_due_is_a_function_of_the_step(saver):
    own = saver(every=Duration(0.5, "epochs"))
    assert [step for step in range(1, 151) if own.due(step)] == [50, 100, 150]


def test_a_process_that_starts_again_knows_the_newest_and_how_long_it_took(saver, tmp_path):
    first = saver()
    first.save(10, state(10), {}, wait=True)
    first.save(20, state(20), {}, wait=True)
    content = bytearray((tmp_path / "step-00000020" / "student.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "step-00000020" / "student.safetensors").write_bytes(content)
    (tmp_path / "step-00000030.tmp-0badcafe").mkdir()
    said: list[str] = []
    again = saver(said)
    assert (tmp_path / "step-00000030.tmp-0badcafe").exists(), "other ranks build a saver too"
    assert again.recover() == tmp_path / "step-00000010" == again.newest
    assert again.seconds == pytest.approx(first_seconds(tmp_path / "step-00000010"))
    assert said[0].startswith("removed step-00000030.tmp-0badcafe: left over")
    assert said[1] == "checkpoint step-00000020 is not used: checksum mismatch in student.safetensors"


def first_seconds(folder: Path) -> float:
    return checkpoint.manifest_of(folder)["seconds"]


def test_a_damaged_checkpoint_is_never_counted_as_kept(saver, tmp_path):
    own = saver()
    for step in (10, 20, 30):
        own.save(step, state(step), {}, wait=True)
    for step, damage in ((20, "short"), (30, "flipped")):
        path = tmp_path / checkpoint.name_of(step) / "student.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content if damage == "flipped" else content[:-1])
    own.save(40, state(40), {}, wait=True)  # sees the short one by its size; the flipped one only a restart finds
    assert 40 in names(tmp_path) and checkpoint.newest(tmp_path)[0] == tmp_path / "step-00000040"
    said: list[str] = []
    again = saver(said)
    again.recover()
    for step in (50, 60):
        again.save(step, state(step), {}, wait=True)
    assert [s for s in names(tmp_path) if checkpoint.problem(tmp_path / checkpoint.name_of(s)) is None] == [50, 60]


def test_the_only_valid_checkpoint_outlives_newer_damaged_ones(saver, tmp_path):
    own = saver()
    own.save(10, state(10), {}, wait=True)
    for step in (20, 30, 40):
        (tmp_path / checkpoint.name_of(step)).mkdir()
    said: list[str] = []
    again = saver(said)
    assert again.recover() == tmp_path / "step-00000010"
    again.save(15, state(15), {}, wait=True)
    assert names(tmp_path) == [10, 15, 20, 30, 40]
    again.save(50, state(50), {}, wait=True)
    assert names(tmp_path) == [15, 50]
    assert said[-1] == "removed damaged checkpoint step-00000040: MANIFEST.json is missing"


def test_retention_in_a_run_and_after_a_restart(saver, tmp_path):
    settings = {"keep_every": Duration(30), "keep_best": "probe/knn_top1"}
    own = saver(**settings)
    for step, accuracy in ((10, 0.3), (20, 0.6), (30, 0.5), (40, float("nan")), (50, 0.4)):
        own.note(step, {"probe/knn_top1": accuracy})
        own.save(step, state(step), {})
    own.wait()
    assert names(tmp_path) == [20, 30, 40, 50]
    again = saver(**settings)
    again.recover()
    for step, accuracy in ((60, 0.55), (70, 0.61), (80, 0.1), (90, 0.2)):
        again.note(step, {"probe/knn_top1": accuracy})
        again.save(step, state(step), {})
    again.wait()
    assert names(tmp_path) == [30, 60, 70, 80, 90]
    policy, figures = retention.read(tmp_path)
    assert policy == retention.Policy(2, 30, "probe/knn_top1") and figures[70] == {"probe/knn_top1": 0.61}


def test_a_best_that_no_checkpoint_can_keep_is_said(saver):
    said: list[str] = []
    own = saver(said, keep_best="probe/knn_top1")
    own.note(15, {"probe/knn_top1": 0.5})
    own.note(25, {"probe/knn_top1": 0.6})
    assert "probe/knn_top1 was measured at step 15, where no checkpoint is written" in said[0] and len(said) == 1


def test_a_best_that_no_probe_measures_is_said(saver):
    said: list[str] = []
    own = saver(said, keep_best="knn/top1")
    own.note(10, {"probe/knn_top1": 0.5})
    assert not said, "another probe may bring it at the same step"
    own.note(20, {"probe/knn_top1": 0.5})
    own.note(30, {"probe/knn_top1": 0.5})
    assert said == ["checkpoints.keep_best: no probe measures 'knn/top1'; there are: probe/knn_top1"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 20 MB."""
    root = tmp_path / "disk"
    root.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(root)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk; the test with a limit of file sizes covers others")
    yield root
    subprocess.run(["umount", str(root)], check=True)


MILLION = 1_000_000  # 8 MB for each of these states


@pytest.mark.fault(8, "checkpoints written to a disk of 20 MB, `when_disk_full: continue`")
def test_disk_full_training_goes_on(saver, small_disk, happened):
    said: list[str] = []
    own = saver(said, root=small_disk / "checkpoints")
    for step in (10, 20, 30):
        own.save(step, state(step, MILLION), {"step": step})
        own._join()
        assert own.failure() is None
    text = said[-1]
    free = int(text.split(" bytes, ")[1].split(" free")[0].replace(",", ""))
    assert "cannot write checkpoint" in text and str(small_disk / "checkpoints" / "step-00000030") in text
    assert "No space left on device" in text and "needs 8,000,0" in text and free < 8e6
    assert "the newest one is step-00000020. Training goes on" in text
    assert own.newest == small_disk / "checkpoints" / "step-00000020"
    assert checkpoint.newest(own.root) == (own.newest, []) and names(own.root)[-1] == 20
    with pytest.raises(RequeueRequest):  # but a run must not end in the belief that it is saved
        own.wait()
    happened("training goes on; the message has path, bytes needed and free; the step before is intact")
    checkpoint.remove(own.root / "step-00000010")
    own.save(40, state(40, MILLION), {"step": 40}, wait=True)
    assert names(own.root) == [20, 40]


@pytest.mark.fault(8, "checkpoints written to a disk of 20 MB, `when_disk_full: stop`")
def test_disk_full_stops_the_run(saver, small_disk, happened):
    own = saver(root=small_disk / "checkpoints", when_disk_full="stop")
    for step in (10, 20):
        own.save(step, state(step, MILLION), {"step": step})
        own._join()
        assert own.failure() is None
    own.save(30, state(30, MILLION), {"step": 30})
    own._join()
    failure = own.failure()
    assert isinstance(failure, RequeueRequest) and failure.exit_code == 75
    assert "step-00000030" in str(failure) and "No space left on device" in str(failure) and "free" in str(failure)
    assert own.failure() is None, "told once"
    assert checkpoint.newest(own.root)[0] == own.root / "step-00000020"
    happened("exit 75; the message has path, bytes needed and free; the step before is intact")


@pytest.mark.fault(8, "the disk fills up in the middle of a write, after the room was found enough")
def test_disk_full_in_the_middle_of_a_write_leaves_nothing_behind(small_disk, happened):
    checkpoint.write(small_disk, 1, state(1, MILLION), {"step": 1})
    needed = 2 * (4 * MILLION + 8) + len('{\n "step": 2\n}')
    blocks = needed // 4096 + 1  # room for the tensors, none for what lies around them
    free = int(subprocess.run(["stat", "-f", "-c", "%f", str(small_disk)], capture_output=True, text=True).stdout)
    (small_disk / "filler").write_bytes(bytes((free - blocks) * 4096))
    with pytest.raises(checkpoint.WriteError, match="No space left on device") as caught:
        checkpoint.write(small_disk, 2, state(2, MILLION), {"step": 2})
    assert caught.value.needed == needed and caught.value.free >= needed
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", "step-00000001"]
    assert checkpoint.problem(small_disk / "step-00000001") is None
    happened("the half-written folder is removed and its room free again; the step before is intact")


@pytest.mark.fault(8, "no file may grow beyond 2 MB (RLIMIT_FSIZE), in a real process that trains on")
def test_disk_full_by_a_limit_of_file_sizes(tmp_path, happened):
    program = f"""
import resource, torch
from pathlib import Path
from foundation.checkpoints.saver import Config, Saver
from foundation.schedules import Clock
saver = Saver(Path({str(tmp_path)!r}), Config(), Clock(100, 10.0), print)
saver.save(1, {{"student": {{"a": torch.zeros(10)}}}}, {{"step": 1}}, wait=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
saver.save(2, {{"student": {{"a": torch.zeros(10**6)}}}}, {{"step": 2}})
saver._thread.join()
assert saver.failure() is None
print("trained on, newest", saver.newest.name)
saver.save(3, {{"student": {{"a": torch.zeros(10**6)}}}}, {{"step": 3}}, wait=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert "trained on, newest step-00000001" in done.stdout
    assert f"cannot write checkpoint {tmp_path}/step-00000002: " in done.stdout and "needs 4,000,0" in done.stdout
    assert "RequeueRequest" in done.stderr and "step-00000003" in done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("step")] == ["step-00000001"]
    happened("training goes on; a save that the end of the process waits for says that it failed, exit 75")


@pytest.mark.fault(9, "a write in the background fails for want of room while steps go on")
def test_a_failure_in_the_background_is_seen_at_the_next_step(saver, small_disk, happened):
    own = saver(root=small_disk / "checkpoints", when_disk_full="stop")
    (small_disk / "filler").write_bytes(bytes(15_000_000))
    own.save(10, state(10, MILLION), {})
    failure = None
    while failure is None:  # a step
        over = not own._thread.is_alive()
        failure = own.failure()
        assert failure is not None or not over, "it had failed before this step, which was not told"
    assert isinstance(failure, RequeueRequest) and "there is no older one" in str(failure)
    happened("the first step after the failure is told, by the policy `stop` with exit 75")


def test_checkpoints_that_are_removed_while_one_is_written_end_nothing(saver, tmp_path, monkeypatch):
    write = checkpoint.write

    def write_and_lose(root, *rest):
        folder = write(root, *rest)
        shutil.rmtree(root)
        return folder

    own = saver(root=tmp_path / "checkpoints", keep_best="probe/knn_top1")
    own.note(10, {"probe/knn_top1": 0.5})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", write_and_lose)
        own.save(10, state(10), {})
        own.settle()
    assert own.failure() is None
    own.save(20, state(20), {}, wait=True)
    assert names(own.root) == [20]


def test_a_bug_in_the_background_is_not_swallowed(saver, tmp_path, monkeypatch):
    def broken(*arguments):
        raise ZeroDivisionError("a bug")

    own = saver()
    monkeypatch.setattr(checkpoint, "write", broken)
    own.save(10, state(10), {})
    own._join()
    assert isinstance(own.failure(), ZeroDivisionError)
    own.save(20, state(20), {})
    with pytest.raises(ZeroDivisionError):
        own.wait()


def test_a_folder_that_cannot_be_pruned_does_not_stop_training(saver, tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    said: list[str] = []
    own = saver(said)
    monkeypatch.setattr(checkpoint, "remove", refuse)
    for step in (10, 20, 30):
        own.save(step, state(step), {})
    own.wait()
    assert own.failure() is None and "cannot remove old checkpoints" in said[-1]
    assert names(tmp_path) == [10, 20, 30]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep_last": 1}, "checkpoints.keep_last is 1; it must be from 2"),
        ({"every": Duration(0)}, "checkpoints.every is 0 steps; it must be above 0"),
        ({"keep_every": Duration(0, "epochs")}, "checkpoints.keep_every is 0 epochs; it must be above 0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Config(**settings)


def test_a_state_without_numbers_is_staged_as_it_is():
    """The queue of ``contrast`` in the batch alone has no rows."""
    staged = Staging().take({"objective": {"queue": torch.zeros(0, 128), "ids": torch.zeros(0, dtype=torch.int64)}})
    assert {key: (t.shape, t.dtype) for key, t in staged["objective"].items()} == {
        "queue": (torch.Size((0, 128)), torch.float32),
        "ids": (torch.Size((0,)), torch.int64),
    }
