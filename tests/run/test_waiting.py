"""Processes that wait in vain: for a batch, for room in shared memory; and processes whose starter is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from foundation.checkpoints import checkpoint
from foundation.parallel.shared_memory import lives

ROOT = Path(__file__).resolve().parents[2]
STORAGE_ENDS = """
import os, time
from foundation.modalities.image import decode
original = decode.decode
def storage_does_not_answer(raw, config=None):
    while os.path.exists({gate!r}):
        time.sleep(600)
    return original(raw, config)
decode.decode = storage_does_not_answer
"""


def start(recipe: Path, run: Path, *words: str, **options) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(run.parent), str(ROOT)])
    return subprocess.Popen(
        [sys.executable, "-m", "foundation", "pretrain", str(recipe), "--run", str(run), *words],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, **options,
    )  # fmt: skip


def wait_for(fact: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.05)


def steps_done(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found by /proc")
@pytest.mark.fault(2, "kill -9 of the launcher of two processes with loader workers")
def test_the_processes_of_a_run_end_with_their_launcher(tiny_recipe_file, tiny_recipe, train, tmp_path, happened):
    run, words = tmp_path / "run", ("train.length=4000 steps", "data.workers=1", "--processes", "2")
    launcher = start(tiny_recipe_file, run, *words)
    wait_for(lambda: steps_done(run) >= 3 or launcher.poll() is not None)
    ranks = children(launcher.pid)
    everybody = ranks + [child for rank in ranks for child in children(rank)]
    assert len(ranks) == 2 and len(everybody) >= 4
    launcher.send_signal(signal.SIGKILL)
    begun = time.monotonic()
    wait_for(lambda: not any(map(lives, everybody)), seconds=30)
    seconds = time.monotonic() - begun
    launcher.communicate()
    assert json.loads((run / "status.json").read_text())["state"] == "stopped"
    saved = checkpoint.newest(run / "checkpoints")[0]
    said: list[str] = []
    train(tiny_recipe(words[0], f"train.stop_after={checkpoint.step_of(saved) + 1} steps"), run, said)
    assert said[0].startswith(f"resuming from {saved.name}"), "nobody holds the folder, and what was learnt is there"
    assert seconds < 30
    happened("both save the same step and end, with their workers; the same command goes on from there")


@pytest.mark.slow
@pytest.mark.fault(30, "TERM while a run waits for a batch that never comes")
@pytest.mark.fault(27, "kill -9 of a process whose loader worker hangs")
def test_term_ends_a_wait_for_a_batch_and_workers_end_with_their_process(tiny_recipe_file, tmp_path, happened):
    run, gate = tmp_path / "run", tmp_path / "storage has gone"
    (tmp_path / "sitecustomize.py").write_text(STORAGE_ENDS.format(gate=str(gate)))
    words = ("train.length=4000 steps", "data.workers=1", "guard.stall_seconds=600", "checkpoints.every=1000 steps")
    process = start(tiny_recipe_file, run, *words)
    wait_for(lambda: steps_done(run) >= 2 or process.poll() is not None)
    gate.touch()
    wait_for(lambda: (before := steps_done(run), time.sleep(1)) and steps_done(run) == before)
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    seconds = time.monotonic() - begun
    assert process.returncode == 75 and seconds < 30, err
    assert "stopped by SIGTERM" in err and "saved" in err and "no batch for" in err and "train-0000" in err
    assert checkpoint.step_of(checkpoint.newest(run / "checkpoints")[0]) == steps_done(run)
    process = start(tiny_recipe_file, run, *words)
    worker: list[int] = []
    wait_for(lambda: worker.extend(pid for pid in children(process.pid) if b"sentry" not in name_of(pid)) or worker)
    wait_for(lambda: list((run / "stalls").glob("rank0-worker-*.txt")))
    process.kill()
    out, _ = process.communicate()
    assert "a few samples could not be read in 30 seconds" in out, "the look at the samples waited for ever"
    wait_for(lambda: not any(map(lives, worker)), seconds=10)
    happened(
        "saves the step that was reached and exits with 75 within seconds, naming the shards; hung workers end too"
    )


def name_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize("kilobytes", [60, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.fault(41, "a full /dev/shm (60 kB for batches; 8 kB: not even a worker starts)")
def test_full_shared_memory_is_named_at_once(tiny_recipe_file, tmp_path, happened, kilobytes):
    mount = f"mount -t tmpfs -o size={kilobytes}k tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("a small /dev/shm needs the rights of root and a mount namespace")
    command = [sys.executable, "-m", "foundation", "pretrain", str(tiny_recipe_file), "data.workers=1",
               "data.timeout_seconds=600", "--run", str(tmp_path / "run")]  # fmt: skip
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{mount}; exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    line = next(line for line in done.stderr.splitlines() if line.startswith("foundation: "))
    assert "/dev/shm has " in line and f"of {kilobytes * 1024:,} bytes free" in line
    assert "data.workers=0" in line and "--shm-size" in line
    happened("named at once with its bytes, free and in all, and what to do; exit 1")


def test_a_run_that_ends_well_leaves_no_empty_files_of_its_workers(tiny_recipe, train, tmp_path):
    run = tmp_path / "run"
    train(tiny_recipe("data.workers=2", "guard.stall_seconds=600"), run)
    assert not (run / "stalls").exists()
