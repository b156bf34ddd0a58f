"""Training in two real processes: equal to one, and one step for all whatever happens to one of them."""

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

ROOT = Path(__file__).resolve().parents[2]
EVEN = ("encoder.drop_path=0", "train.length=6 steps")
"""Nothing that depends on how a batch is dealt out: no drop path."""


@pytest.fixture
def start(tiny_recipe_file: Path) -> Callable[..., subprocess.Popen[str]]:
    """``start(folder, 2, "train.length=4 steps")``: ``foundation pretrain`` in that many processes."""

    def run(folder: Path, processes: int, *overrides: str, path: Path = ROOT) -> subprocess.Popen[str]:
        words = ["pretrain", str(tiny_recipe_file), *overrides, "--run", str(folder)]
        return subprocess.Popen(
            [sys.executable, "-m", "foundation", *words, "--processes", str(processes)],
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{path}", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    return run


def finish(child: subprocess.Popen[str], expected: int = 0) -> tuple[str, str]:
    out, error = child.communicate(timeout=300)
    assert child.returncode == expected, error
    return out, error


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines]


def hashes_of(checkpoint: Path) -> dict[str, str]:
    files = json.loads((checkpoint / "MANIFEST.json").read_text())["files"]
    return {name: entry["sha256"] for name, entry in files.items() if name.endswith(".safetensors")}


def wait_for_step(folder: Path, step: int, child: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and child.poll() is None:
        path = folder / "metrics.jsonl"
        if path.exists() and f'"step": {step},' in path.read_text():
            return
        time.sleep(0.02)
    child.kill()
    raise AssertionError(f"no step {step}: {child.communicate()}")


def children_of(child: subprocess.Popen[str]) -> list[int]:
    """The processes of a run, in the order of their ranks."""
    listed = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    return [int(pid) for pid in listed]


@pytest.mark.slow
@pytest.mark.fault(12, "a run goes on with 2 processes, then 1, then 2")
def test_another_number_of_processes_goes_on_with_the_same_samples(start, tmp_path, happened):
    finish(start(tmp_path / "whole", 1, *EVEN))
    changing = tmp_path / "changing"
    for processes, stop in ((2, 3), (1, 4), (2, 6)):
        out, _ = finish(start(changing, processes, *EVEN, f"train.stop_after={stop} steps"))
    assert "resuming from step-00000004" in out
    assert losses(changing) == pytest.approx(losses(tmp_path / "whole"), rel=2e-5)
    happened("the losses are those of one process throughout (relative difference below 2e-5)")


@pytest.mark.slow
@pytest.mark.fault(31, "USR2 to one of two processes")
def test_a_signal_to_one_process_saves_the_same_step_in_all(start, tmp_path, happened):
    child = start(tmp_path / "run", 2, "train.length=2000 steps")
    wait_for_step(tmp_path / "run", 3, child)
    os.kill(children_of(child)[1], signal.SIGUSR2)
    _, error = finish(child, 75)
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "stopped"
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    assert int(newest.name.removeprefix("step-")) == status["step"] == len(losses(tmp_path / "run"))
    assert "after step" in error
    happened(f"both ended with exit code 75; {newest.name} is the step of both")


@pytest.mark.slow
@pytest.mark.fault(2, "kill -9 to one of two processes")
def test_a_killed_process_ends_the_run_and_is_named(start, tmp_path, happened):
    length = "train.length=30 steps"
    finish(start(tmp_path / "whole", 2, length))
    killed = tmp_path / "killed"
    child = start(killed, 2, length)
    wait_for_step(killed, 7, child)
    begin = time.monotonic()
    os.kill(children_of(child)[1], signal.SIGKILL)
    _, error = finish(child, 75)
    assert time.monotonic() - begin < 30
    assert "process 1 of 2 was killed by SIGKILL" in error
    finish(start(killed, 2, length))
    assert losses(killed) == losses(tmp_path / "whole")
    hashes = [hashes_of(folder / "checkpoints" / "step-00000030") for folder in (killed, tmp_path / "whole")]
    assert hashes[0] == hashes[1] and len(hashes[0]) == 5
    happened("the other ended by itself and the killed one was named; started again: the same losses and SHA-256")


@pytest.mark.slow
@pytest.mark.fault(36, "a loss that is not finite on one of two processes")
def test_a_bad_loss_on_one_process_stops_optimiser_and_teacher_on_all(start, tmp_path, happened):
    (tmp_path / "faulty").mkdir()
    (tmp_path / "faulty" / "objective.py").write_text(
        "from dataclasses import dataclass\n"
        "from foundation.objectives import koleo\n"
        "from foundation.parallel.collective import rank\n"
        "from foundation.objectives.base import Result\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Config(koleo.Config):\n"
        "    def build(self, *arguments, **named):\n"
        "        inner = super().build(*arguments, **named)\n"
        "        forward = inner.forward\n"
        "        def faulty(outputs, batch, step):\n"
        "            result = forward(outputs, batch, step)\n"
        "            bad = float('nan') if step == 4 and rank() == 1 else 1.0\n"
        "            return Result(result.loss * bad, result.metrics)\n"
        "        inner.forward = faulty\n"
        "        return inner\n"
    )
    overrides = ("objectives.2.name=faulty.objective", "train.length=8 steps", "checkpoints.every=1 steps")
    _, error = finish(start(tmp_path / "run", 2, *overrides, path=tmp_path), 4)
    assert "step 4: loss nan" in error
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert names[-1] == "step-00000004"
    noted = [json.loads(line) for line in (tmp_path / "run" / "bad-steps.jsonl").read_text().splitlines()]
    assert sorted(line["rank"] for line in noted) == [0, 1] and all(len(line["keys"]) == 4 for line in noted)
    happened("no optimiser or teacher moved on either; keys of both batches in bad-steps.jsonl; exit code 4")
