"""The watchdog in real processes: hangs in Python, in C, in C with the interpreter held, and in a loader worker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from foundation.errors import StallError
from foundation.parallel.shared_memory import lives
from foundation.run.run_folder import RunFolder
from foundation.run.runs import HEARTBEATS
from foundation.run.watchdog import STALLS, Watchdog


def start(tmp_path: Path, *hang: str, seconds: float = 2.0) -> subprocess.Popen[str]:
    """A process that makes three steps under a watchdog and then hangs, or does what else it is told to."""
    body = "\n".join(f"    {line}" for line in hang)
    program = f"""
import sys, time
from pathlib import Path
from foundation.run import watchdog
from foundation.run.interrupt import StopFlag
from foundation.run.run_folder import RunFolder
watchdog._HELD = watchdog.STOP_SECONDS = 1.0
def culprit():
{body}
run = RunFolder(Path({str(tmp_path / "run")!r}))
with StopFlag() as stop, watchdog.Watchdog(run, 0, {seconds}, asked=stop.since) as dog:
    for step in range(1, 4):
        time.sleep(0.2)
        dog.beat(step, loss=1.5, total=9)
    culprit()
"""
    return subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)


def stacks(run: Path) -> str:
    return "\n".join(path.read_text() for path in sorted((run / STALLS).glob("*.txt")))


@pytest.mark.parametrize(
    "hang",
    [
        pytest.param(("while True: time.sleep(0.01)",), id="python"),
        pytest.param(("import os; os.read(os.pipe()[0], 1)",), id="system-call"),
    ],
)
def test_a_hanging_process_leaves_its_stacks_and_exit_code_5(tmp_path, hang):
    process = start(tmp_path, *hang)
    _, err = process.communicate(timeout=240)
    assert process.returncode == StallError.exit_code == 5
    found = stacks(tmp_path / "run")
    assert "culprit" in found and "after step 3" in found and "watchdog" in found
    assert "no step for" in err and str(tmp_path / "run" / STALLS) in err
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "failed" and "no step for" in status["reason"] and status["step"] == 3


@pytest.mark.slow
@pytest.mark.fault(28, "a step hangs in C holding the interpreter, so that no Python thread can run")
def test_a_held_interpreter_is_ended_by_the_sentry(tmp_path, happened):
    process = start(tmp_path, "import ctypes; ctypes.PyDLL(None).sleep(600)")
    process.communicate(timeout=240)
    assert process.returncode == -signal.SIGKILL  # nothing in the process can give an exit code
    assert "culprit" in (tmp_path / "run" / STALLS / "rank0-held.txt").read_text()
    happened("the sentry beside it had the stacks written and killed the process")


@pytest.mark.slow
@pytest.mark.fault(28, "a process that is stopped (SIGSTOP) for longer than guard.stall_seconds, and goes on")
def test_a_stopped_process_is_not_a_hung_one(tmp_path, happened):
    process = start(tmp_path, "for step in range(4, 40): time.sleep(0.1); dog.beat(step)")
    path = tmp_path / "run" / HEARTBEATS / "rank0.json"
    wait_for(lambda: path.exists() and (json.loads(path.read_text())["step"] or 0) >= 4, process)
    process.send_signal(signal.SIGSTOP)
    time.sleep(5)  # the limit is 2 s, and the sentry's another second
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err == ""
    assert json.loads(path.read_text())["step"] == 39 and not (tmp_path / "run" / STALLS).exists()
    happened("the time in which it stood still does not count; it goes on and ends well")


@pytest.mark.slow
@pytest.mark.fault(30, "TERM while the process waits in C for something that never comes")
def test_a_signal_ends_a_wait_in_vain(tmp_path, happened):
    process = start(tmp_path, "import ctypes", "while True: ctypes.CDLL(None).sleep(600)", seconds=600.0)
    path = tmp_path / "run" / HEARTBEATS / "rank0.json"
    wait_for(lambda: path.exists() and json.loads(path.read_text())["step"] == 3, process)
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75 and time.monotonic() - begun < 10
    assert "asked to stop" in err and "after step 3" in err and "the last checkpoint stands" in err
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "stopped" and "still waiting" in status["reason"]
    assert "culprit" in stacks(tmp_path / "run")
    happened("exit code 75 after some seconds, with the place where it waited and all stacks")


def wait_for(fact: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)


@pytest.mark.slow
def test_a_collective_whose_partner_is_gone(tmp_path):
    """Two gloo processes; one never joins the sum. The other hangs in C and is ended."""
    program = """
import sys, time, torch, torch.distributed as dist
from pathlib import Path
from foundation.run.run_folder import RunFolder
from foundation.run.watchdog import Watchdog
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}/store", rank=rank, world_size=2)
if rank:
    time.sleep(600)
with Watchdog(RunFolder(Path(sys.argv[2]) / "run"), rank, 1.0) as dog:
    dog.beat(7)
    dist.all_reduce(torch.ones(1))
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        _, err = processes[0].communicate(timeout=300)
        assert processes[0].returncode == 5, err
        assert "all_reduce" in stacks(tmp_path / "run")
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.slow
def test_a_beating_process_is_left_alone(tmp_path):
    """Beats for longer than the limit, then work that is allowed to take longer."""
    process = start(
        tmp_path, "for step in range(12): time.sleep(0.3); dog.beat(step)",
        "with dog.longer('probe'): time.sleep(4)", seconds=3.0,
    )  # fmt: skip
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert [path.name for path in (tmp_path / "run").iterdir()] == [HEARTBEATS]


def test_a_heartbeat_tells_step_and_place_and_leaves_nothing_else(tmp_path):
    with Watchdog(RunFolder(tmp_path), 3, 600.0) as dog:
        dog.beat(11, loss=2.0)
    beat = json.loads((tmp_path / HEARTBEATS / "rank3.json").read_text())
    assert (beat["step"], beat["loss"], beat["rank"], beat["doing"]) == (11, 2.0, 3, "training")
    assert (beat["pid"], beat["host"]) == (os.getpid(), socket.gethostname())
    assert not (tmp_path / STALLS).exists() and [p.name for p in tmp_path.iterdir()] == [HEARTBEATS]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="this system shows no shared memory")
@pytest.mark.parametrize("here", [True, False])
def test_shared_memory_of_killed_workers_is_freed(tmp_path, here):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    left = Path(f"/dev/shm/torch_{process.pid}_1_0")
    left.write_bytes(b"0" * 8)
    for folder in (HEARTBEATS, STALLS):
        (tmp_path / folder).mkdir()
    host = socket.gethostname() if here else "elsewhere"
    (tmp_path / HEARTBEATS / "rank0.json").write_text(json.dumps({"host": host}))
    (tmp_path / STALLS / f"rank0-worker-{process.pid}.txt").touch()
    try:
        with Watchdog(RunFolder(tmp_path), 0, 0):
            assert left.exists() is not here
        assert not (tmp_path / STALLS).exists()
    finally:
        left.unlink(missing_ok=True)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="this system shows no shared memory")
@pytest.mark.parametrize("died", ["during the attempt", "at its end"])
def test_a_worker_that_dies_meanwhile_is_freed_or_noted_for_the_next_attempt(tmp_path, monkeypatch, died):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    left, note = Path(f"/dev/shm/torch_{process.pid}_1_0"), tmp_path / STALLS / f"rank0-worker-{process.pid}.txt"
    (tmp_path / HEARTBEATS).mkdir()
    (tmp_path / HEARTBEATS / "rank0.json").write_text(json.dumps({"host": socket.gethostname()}))
    looks = iter([True] if died == "at its end" else [])
    for module in ("foundation.run.watchdog", "foundation.parallel.shared_memory"):
        monkeypatch.setattr(f"{module}.lives", lambda _: next(looks, False))
    try:
        note.parent.mkdir()
        if died == "at its end":  # alive at the first look of the next attempt, dead at any other
            left.touch()
            note.touch()
        with Watchdog(RunFolder(tmp_path), 0, 0):
            assert note.exists() == left.exists(), "what nobody notes stays until the machine starts again"
            left.touch()
            note.touch()
        assert not left.exists() and not note.exists(), "workers killed by their own run leave nothing either"
    finally:
        left.unlink(missing_ok=True)


def test_there_is_a_heartbeat_before_there_are_workers(tmp_path):
    with Watchdog(RunFolder(tmp_path), 0, 0):
        beat = json.loads((tmp_path / HEARTBEATS / "rank0.json").read_text())
    assert beat["host"] == socket.gethostname(), "by it the next attempt frees what killed workers hold"


def test_no_limit_ends_nothing(tmp_path):
    with Watchdog(RunFolder(tmp_path), 0, 0.0, step=7):
        time.sleep(1.2)
    beat = json.loads((tmp_path / HEARTBEATS / "rank0.json").read_text())
    assert (beat["doing"], beat["step"]) == ("first step", 7), "a run that goes on says where, before its first step"


@pytest.mark.fault(10, "the heartbeat's folder cannot be written")
def test_a_heartbeat_that_cannot_be_written_ends_nothing(tmp_path, capfd, happened):
    (tmp_path / HEARTBEATS).write_text("a file in the folder's place")
    with Watchdog(RunFolder(tmp_path), 0, 30.0) as dog:
        dog.beat(1)
        time.sleep(2.4)
    err = capfd.readouterr().err
    assert err.count("training goes on") == 1
    happened("said once; training goes on")


PLUGIN = """
import os, time
from dataclasses import dataclass
import torch
from foundation.objectives.base import Objective, Request, Result

@dataclass(frozen=True, kw_only=True)
class Config:
    weight: float = 1.0
    hang_at: int = 3
    def build(self, context):
        return Sleepy(self)

class Sleepy(Objective):
    def __init__(self, config):
        super().__init__()
        self.hang_at = config.hang_at
        self.requests = (Request("student", "global", "cls"),)
    def forward(self, outputs, batch, step):
        while step >= self.hang_at:
            time.sleep(1)
        return Result(outputs[self.requests[0]].square().mean())
"""

SLOW_STORAGE = """
import time
from foundation.modalities.image import decode
original = decode.decode
def storage_does_not_answer(raw, config=None):
    if raw["__key__"] == "s017":
        time.sleep(600)
    return original(raw, config)
decode.decode = storage_does_not_answer
"""


def pretrain(tmp_path: Path, recipe: Path, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", ""), str(Path(__file__).resolve().parents[2])])
    return subprocess.run(
        [sys.executable, "-m", "foundation", "pretrain", str(recipe), *words, "--run", str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.fault(28, "a step of a real run hangs in an objective")
def test_a_run_whose_step_hangs(tmp_path, tiny_recipe_file, happened):
    (tmp_path / "third_party").mkdir()
    (tmp_path / "third_party" / "sleepy.py").write_text(PLUGIN)
    done = pretrain(
        tmp_path, tiny_recipe_file, "objectives=[{name: third_party.sleepy}]", "masking=null", "data.workers=1",
        "guard.stall_seconds=3", "checkpoints.every=1 steps",
    )  # fmt: skip
    assert done.returncode == 5, done.stdout + done.stderr
    found = stacks(tmp_path / "run")
    assert "sleepy.py" in found and "forward" in found
    assert list((tmp_path / "run" / STALLS).glob("rank0-worker-*.txt")), "the loader worker's stacks are there as well"
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"
    for path in (tmp_path / "run" / STALLS).glob("rank0-worker-*.txt"):
        assert not lives(int(path.stem.rpartition("-")[2]))
    again = pretrain(tmp_path, tiny_recipe_file, "objectives=[{name: third_party.sleepy, hang_at: 99}]", "masking=null",
                     "guard.stall_seconds=60", "train.stop_after=4 steps", "--accept-changes")  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "resuming from step-" in again.stdout
    line = next(line for line in done.stderr.splitlines() if "no step for" in line)
    happened(f"exit code 5 with all stacks: {line.partition(': ')[2].partition(' (')[0]}; the same command went on")


@pytest.mark.slow
@pytest.mark.fault(28, "storage answers one loader worker no more")
def test_a_loader_worker_that_hangs_says_where(tmp_path, tiny_recipe_file, happened):
    (tmp_path / "sitecustomize.py").write_text(SLOW_STORAGE)
    done = pretrain(tmp_path, tiny_recipe_file, "data.workers=1", "guard.stall_seconds=2", "train.length=20 steps")
    assert done.returncode == 5, done.stdout + done.stderr
    workers = list((tmp_path / "run" / STALLS).glob("rank0-worker-*.txt"))
    assert workers and "storage_does_not_answer" in "".join(path.read_text() for path in workers)
    happened("exit code 5; the worker's own stack names the function that reads")


def test_a_killed_run_leaves_its_last_heartbeat(tmp_path):
    process = start(tmp_path, "while True: dog.beat(4); time.sleep(0.1)")
    path = tmp_path / "run" / HEARTBEATS / "rank0.json"
    deadline = time.monotonic() + 60
    while not path.exists() or json.loads(path.read_text())["step"] != 4:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert json.loads(path.read_text())["step"] == 4


def test_clearing_a_run_folder_takes_heartbeats_along(tmp_path):
    with Watchdog(RunFolder(tmp_path), 0, 0.0):
        pass
    RunFolder(tmp_path).clear()
    assert not list(tmp_path.iterdir())
