"""Run folders that are full, read-only or taken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from foundation.engine.metrics import MetricsWriter, read
from foundation.engine.run_folder import RunFolder


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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
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
    filler.unlink()
    writer.write(400, {"loss": 1.0})
    writer.close()
    assert [line["step"] for line in read(writer.path)] == list(range(1, 401))
    assert all(json.loads(line) for line in writer.path.read_text().splitlines())
    assert "none was lost" in said[-1]
    happened("said once; lines wait in memory and are written, all of them, when there is room")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
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
            "import sys, pathlib\nfrom foundation.engine.run_folder import RunFolder\n"
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
