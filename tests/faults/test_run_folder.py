"""Run folders that are full, read-only or taken."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foundation.checkpoints import saver
from foundation.errors import RequeueRequest
from foundation.run import last_writes
from foundation.run.metrics import MetricsWriter, read
from foundation.run.run_folder import RunFolder
from foundation.run.watchdog import Watchdog


class SmallDisk:
    """A file system of its own, of a few hundred kB."""

    def __init__(self, folder: Path, kilobytes: int) -> None:
        self.folder = folder
        folder.mkdir()
        options = f"size={kilobytes}k"
        result = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
        if result.returncode:
            pytest.skip("mounting a small disk needs the rights of root")

    def fill(self) -> Path:
        """Take what is free; gives the file to remove."""
        path = self.folder / "filler"
        with path.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return path


@pytest.fixture
def small_disk(tmp_path):
    disk = SmallDisk(tmp_path / "disk", 256)
    yield disk
    subprocess.run(["umount", "-l", str(disk.folder)], check=True)


@pytest.mark.fault(10, "disk full while metrics are written, with room again later")
def test_metrics_wait_for_a_full_disk(small_disk, happened):
    said: list[str] = []
    writer = MetricsWriter(small_disk.folder, say=said.append)
    writer.write(1, {"loss": 1.0})
    filler = small_disk.fill()
    for step in range(2, 400):
        writer.write(step, {"loss": 1.0, "text": "x" * 40})
    assert len([text for text in said if "metrics cannot be written" in text]) == 1
    assert str(writer.path) in said[0] and "No space left" in said[0]
    assert len([text for text in said if "no more curves" in text]) == 1
    filler.unlink()
    writer.write(400, {"loss": 1.0})
    writer.close()
    assert [line["step"] for line in read(writer.path)] == list(range(1, 401))
    assert all(json.loads(line) for line in writer.path.read_text().splitlines())
    assert [text for text in said if str(writer.path) in text][-1].endswith("again; none was lost")
    happened("said once; lines wait in memory and are written, all of them, when there is room")


@pytest.mark.fault(10, "disk full for TensorBoard's files")
def test_curves_that_cannot_be_written_end_nothing(small_disk, tmp_path, happened):
    run = tmp_path / "run"
    run.mkdir()
    (run / "tensorboard").symlink_to(small_disk.folder)
    said: list[str] = []
    writer = MetricsWriter(run, say=said.append)
    small_disk.fill()
    for step in range(1, 6000):
        writer.write(step, {"loss": float(step), "other": 1.0})
    writer.close()
    assert len(read(writer.path)) == 5999
    assert len(said) == 1 and "no more curves for TensorBoard" in said[0]
    happened("no more curves, said once; every number is in metrics.jsonl")


@pytest.mark.fault(10, "metrics that can never be written (/dev/full) in a whole run")
def test_a_run_survives_when_no_metrics_can_be_written(tiny_recipe, train, tmp_path, happened, capfd):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").symlink_to("/dev/full")
    train(tiny_recipe("train.length=3 steps"), run)
    assert (run / "export" / "teacher.safetensors").is_file()
    assert "metrics cannot be written" in capfd.readouterr().err
    happened("the run trains to its end, says once that metrics cannot be written and how many are lost")


@pytest.fixture
def read_only(tmp_path):
    """A folder that not even root can write to."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(folder)]
    if os.geteuid() == 0:
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("root may write everywhere, and mounting a read-only folder is not allowed here")
        yield folder
        subprocess.run(["umount", "-l", str(folder)], check=True)
    else:
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


@pytest.mark.parametrize("inside", ["", "run"])
@pytest.mark.fault(11, "read-only run folder")
def test_a_read_only_folder_is_refused_before_the_first_step(tiny_recipe_file, foundation, read_only, happened, inside):
    result = foundation("pretrain", tiny_recipe_file, "--run", read_only / inside)
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    assert "cannot write to the run folder" in result.stderr and str(read_only / inside) in result.stderr
    assert not any(read_only.iterdir())
    happened("refused before step 0, exit 2, naming the folder")


@pytest.mark.fault(11, "a second run in the folder of a run that trains")
def test_two_runs_in_one_folder(tiny_recipe_file, foundation, happened, tmp_path):
    run = tmp_path / "run"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib\nfrom foundation.run.run_folder import RunFolder\n"
            "with RunFolder(pathlib.Path(sys.argv[1])):\n    print('in', flush=True)\n    sys.stdin.read()",
            str(run),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "in\n"
        before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
        result = foundation("pretrain", tiny_recipe_file, "--run", run)
        assert result.returncode == 2 and "another process is training in" in result.stderr, result.stderr
        assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before
    finally:
        holder.communicate("")
    with RunFolder(run):
        pass
    happened("the second is refused, exit 2, and touches nothing; the lock ends with the process that holds it")


@pytest.mark.slow
@pytest.mark.fault(26, "every shard damaged, in a whole run")
def test_a_run_on_nothing_but_damage_ends(tiny_recipe_file, foundation, shard, happened, tmp_path):
    path = shard([(f"s{n:03d}.png", b"no picture") for n in range(30)], indexed=True)
    result = foundation("pretrain", tiny_recipe_file, f"data.shards=['{path}']", "--run", tmp_path / "run")
    assert result.returncode == 3 and "Traceback" not in result.stderr, result.stderr
    assert path.name in result.stderr and "decode" in result.stderr
    happened("exit 3 before the first step, naming shard, key and reason")


@pytest.mark.fault(17, "more bad samples than data.max_bad_samples")
def test_the_budget_ends_a_run_and_its_metrics_count_by_reason(tiny_recipe, train, shard, metrics, happened, tmp_path):
    from foundation.errors import DataBudgetError
    from tests.faults.conftest import good, picture

    bad = [("s900.png", b"no picture"), ("s901.png", picture()[:-300]), ("s902.cls", b"1")]
    path = shard([*good(20), *bad])
    settings = ("train.length=6 steps", "train.batch_size=4")
    trainer = train(tiny_recipe(*settings, "data.max_bad_samples=20", shards=path), tmp_path / "good")
    counts = dict(trainer.data_guard.counts)
    assert {"decode", "truncated", "missing"} <= counts.keys()
    last = [line for line in metrics(tmp_path / "good") if "data/skipped" in line][-1]
    assert last["data/skipped"] == sum(counts.values())
    assert {name: last[f"data/skipped/{name}"] for name in counts} == counts
    with pytest.raises(DataBudgetError, match=r"data\.max_bad_samples = 1") as caught:
        train(tiny_recipe(*settings, "data.max_bad_samples=1", shards=path), tmp_path / "poor")
    assert caught.value.exit_code == 3 and path.name in str(caught.value) and "s90" in str(caught.value)
    happened("counted in the metrics by reason; exit 3 when the budget is spent, naming the last ones")


@pytest.fixture
def at_step(monkeypatch):
    """``at_step({4: disk.fill})``: done once, in a real run of this process, as soon as a step has been made."""

    def plan(actions):
        beat = Watchdog.beat

        def beat_and_act(dog, step, **figures):
            beat(dog, step, **figures)
            actions.pop(step, lambda: None)()

        monkeypatch.setattr(Watchdog, "beat", beat_and_act)

    monkeypatch.setattr(saver, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(last_writes, "LAST_SECONDS", 1.0)
    monkeypatch.setattr(last_writes, "_LOOK_AGAIN_SECONDS", 0.3)
    return plan


def state_of(run: Path) -> str:
    return json.loads((run / "status.json").read_text())["state"]


@pytest.fixture
def disk(tmp_path):
    """A file system of 4 MB, with room for a few checkpoints of the tiny recipe."""
    disk = SmallDisk(tmp_path / "disk", 4096)
    yield disk
    for _ in range(2):  # a test may have mounted the run folder over itself
        subprocess.run(["umount", "-l", str(disk.folder / "run")], capture_output=True)
    subprocess.run(["umount", "-l", str(disk.folder)], check=True)


@pytest.mark.fault(8, "the whole run folder's disk is full from step 4 to step 6 of a run")
def test_a_disk_full_for_a_while_costs_a_run_nothing(tiny_recipe, train, metrics, disk, at_step, capfd, happened):
    run, said = disk.folder / "run", []
    at_step({4: disk.fill, 6: lambda: (time.sleep(1.2), (disk.folder / "filler").unlink())})
    train(tiny_recipe("checkpoints.every=5 steps"), run, said)
    failed = [line for line in said if "cannot write checkpoint" in line]
    assert len(failed) == 1 and "step-00000005" in failed[0] and "No space left" in failed[0] and "free" in failed[0]
    assert "step-00000007 is saved: there is room again" in said, "not only when the next checkpoint is due"
    assert [line["step"] for line in metrics(run)] == list(range(1, 9))
    assert state_of(run) == "done" and (run / "export" / "teacher.safetensors").is_file()
    err = capfd.readouterr().err
    assert "Traceback" not in err and err.count("training goes on") <= 2, err
    happened("training goes on; the state is saved at the first step with room, every metric is written")


def fill(disk: SmallDisk) -> None:
    disk.fill()


def make_read_only(disk: SmallDisk) -> None:
    run = str(disk.folder / "run")
    subprocess.run(["mount", "--bind", run, run], check=True)
    if subprocess.run(["mount", "-o", "remount,bind,ro", run], capture_output=True).returncode:
        pytest.skip("mounting a read-only folder is not allowed here")


def limit_file_sizes(disk: SmallDisk) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))


@pytest.mark.slow
@pytest.mark.parametrize("break_it", [fill, make_read_only, limit_file_sizes])
@pytest.mark.fault(
    8, "the run folder is full, read-only or without room by a limit of file sizes, from step 7 to the end"
)
def test_a_disk_that_stays_full_leaves_a_run_to_go_on_with(
    tiny_recipe, train, disk, at_step, capfd, happened, break_it
):
    run, said = disk.folder / "run", []
    at_step({7: lambda: break_it(disk)})
    try:
        with pytest.raises(RequeueRequest) as caught:
            train(tiny_recipe(), run, said)
        if break_it is fill:
            assert state_of(run) == "stopped", "the last word is written into the room that the old one had"
            said.clear()
            with pytest.raises(RequeueRequest):
                train(tiny_recipe(), run, said)
            assert any("a checkpoint needs" in line and "Make room now" in line for line in said)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        subprocess.run(["umount", "-l", str(run)], capture_output=True)
        (disk.folder / "filler").unlink(missing_ok=True)
    text = str(caught.value)
    assert caught.value.exit_code == 75 and "step-00000008" in text and "the newest one is step-00000006" in text
    assert "start the same command again" in text and "Traceback" not in capfd.readouterr().err
    said.clear()
    train(tiny_recipe(), run, said)
    assert said[0].startswith("resuming from step-00000006") and state_of(run) == "done"
    assert (run / "export" / "teacher.safetensors").is_file()
    happened("trains to its end, tries to save for a minute, exit 75 with what to do; the same command then finishes")


@pytest.mark.fault(11, "a full disk at the start")
def test_a_full_disk_is_refused_before_the_first_step(tiny_recipe_file, foundation, disk, happened):
    run = disk.folder / "run"
    run.mkdir()
    disk.fill()
    result = foundation("pretrain", tiny_recipe_file, "--run", run)
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    assert str(run) in result.stderr and "needs 4" in result.stderr and "0 free" in result.stderr
    assert "Nothing has been learnt yet" in result.stderr
    assert not [path for path in run.iterdir() if path.name != ".lock"]
    happened("refused before step 0, exit 2, with the folder, bytes needed and free")


@pytest.mark.slow
@pytest.mark.fault(8, "checkpoints is a link to a disk with room; the disk of the run folder has none for a checkpoint")
def test_room_is_looked_for_where_the_checkpoints_lie(tiny_recipe_file, foundation, tmp_path, small_disk, happened):
    run, roomy = small_disk.folder / "run", tmp_path / "roomy"
    run.mkdir()
    for name in ("checkpoints", "export"):
        (roomy / name).mkdir(parents=True)
        (run / name).symlink_to(roomy / name)
    result = foundation("pretrain", tiny_recipe_file, "train.length=2 steps", "--run", run)
    assert result.returncode == 0, result.stderr
    assert (roomy / "checkpoints" / "step-00000002").is_dir() and (run / "checkpoints").is_symlink()
    happened("trains, and saves on the other disk")


@pytest.mark.fault(8, "a killed save left a folder on a disk of checkpoints that is read-only by now")
def test_what_cannot_be_removed_keeps_no_run_from_going_on(tiny_recipe, train, disk, capfd, happened):
    run, said = disk.folder / "run", []
    train(tiny_recipe("train.stop_after=4 steps"), run)
    (run / "checkpoints" / "step-00000005.tmp-0").mkdir()
    subprocess.run(["mount", "--bind", run / "checkpoints", run / "checkpoints"], check=True)
    try:
        if subprocess.run(["mount", "-o", "remount,bind,ro", run / "checkpoints"], capture_output=True).returncode:
            pytest.skip("mounting a read-only folder is not allowed here")
        train(tiny_recipe("train.stop_after=4 steps"), run, said)
    finally:
        subprocess.run(["umount", "-l", run / "checkpoints"], check=True)
    assert any("cannot remove what is left over in" in line and "Read-only" in line for line in said), said
    assert any(line.startswith("resuming from step-00000004") for line in said)
    happened("said; the run goes on from its newest whole checkpoint")


@pytest.mark.slow
@pytest.mark.fault(10, "standard output on a full disk (/dev/full)")
def test_a_log_on_a_full_disk_ends_nothing(tiny_recipe_file, tmp_path, happened):
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "foundation", "pretrain", str(tiny_recipe_file), "train.length=2 steps",
             "--run", str(tmp_path / "run")], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120,
        )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("standard output cannot be written") == 1 and "Traceback" not in result.stderr
    assert state_of(tmp_path / "run") == "done"
    happened("said once on standard error; the run trains to its end, exit 0")


@pytest.mark.fault(10, "the output of any command on a full disk (/dev/full)")
def test_a_command_whose_output_finds_no_room_says_so(happened):
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "foundation", "--help"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert result.returncode == 2 and "No space left on device. Make room" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    happened("one line, exit 2")
