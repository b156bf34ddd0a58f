"""Whatever kills a run, whenever: started again it gives the same losses and the same state, bit for bit."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ("checkpoints.every=2 steps", "data.workers=1", "train.length={length} steps")


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


def state(folder: Path) -> tuple[str, dict[str, str]]:
    """Name of the last checkpoint and SHA-256 of every file of tensors in it."""
    newest = sorted((folder / "checkpoints").glob("step-*"))[-1]
    files = json.loads((newest / "MANIFEST.json").read_text())["files"]
    return newest.name, {name: entry["sha256"] for name, entry in files.items() if name.endswith(".safetensors")}


def tensors(folder: Path, step: int, branch: str) -> dict[str, Tensor]:
    """Those of a branch in the checkpoint of a step."""
    (checkpoint,) = (folder / "checkpoints").glob(f"step-*{step:03}")
    return load_file(checkpoint / f"{branch}.safetensors")


@pytest.fixture
def kill(tiny_recipe_file: Path) -> Callable[..., list[dict[str, Any]]]:
    """``kill(folder, 20, "steps", 60)``: a run of 60 steps, killed 20 times; what is known of each attempt."""

    def run(folder: Path, kills: int, mode: str, length: int, seconds: float = 900) -> list[dict[str, Any]]:
        overrides = [setting.format(length=length) for setting in SETTINGS]
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("killing_ground.py")), str(tiny_recipe_file), str(folder),
             str(kills), "0", mode, *overrides],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=seconds,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + folder.with_suffix(".log").read_text()[-3000:]
        attempts = [json.loads(line) for line in done.stdout.splitlines()]
        assert [a["exit"] for a in attempts] == [75 if mode == "signals" else -9] * kills + [0]
        return attempts

    return run


@pytest.fixture
def kill_pair(tiny_recipe_file: Path) -> Callable[..., list[dict[str, Any]]]:
    """``kill_pair(folder, 20, 60)``: a run of 60 steps by two processes, one of which is killed, 20 times."""

    def run(folder: Path, kills: int, length: int, *overrides: str, seconds: float = 1800) -> list[dict[str, Any]]:
        settings = [setting.format(length=length) for setting in SETTINGS]
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("killing_ground.py")), str(tiny_recipe_file), str(folder),
             str(kills), "0", "pair", *settings, *overrides],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=seconds,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + folder.with_suffix(".log").read_text()[-3000:]
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def assert_equal(one: Path, other: Path) -> None:
    assert losses(one) == losses(other)
    assert state(one) == state(other)


@pytest.mark.slow
@pytest.mark.fault(1, "kill -9 at 20 random steps of one run, loader workers included")
def test_killed_at_random_steps(kill, tmp_path, happened):
    kill(tmp_path / "whole", 0, "steps", 60)
    kill(tmp_path / "killed", 20, "steps", 60)
    assert_equal(tmp_path / "killed", tmp_path / "whole")
    happened("losses of all 60 steps and the SHA-256 of every tensor file as in the run that was never killed")


@pytest.mark.slow
@pytest.mark.fault(3, "kill -9 of a run 10 times while it writes a checkpoint")
def test_killed_while_a_checkpoint_is_written(kill, tmp_path, happened):
    kill(tmp_path / "whole", 0, "saves", 40)
    kill(tmp_path / "killed", 10, "saves", 40)
    assert "left over from a process that was killed" in (tmp_path / "killed.log").read_text()
    assert_equal(tmp_path / "killed", tmp_path / "whole")
    happened("leftovers named and removed; losses and SHA-256 as in the run that was never killed")


@pytest.mark.slow
@pytest.mark.fault(30, "TERM, INT and USR2 to a run and its loader workers, 12 times in turn")
@pytest.mark.fault(32, "a second signal while the first is being answered")
def test_signals(kill, tmp_path, happened):
    kill(tmp_path / "whole", 0, "signals", 60)
    kill(tmp_path / "stopped", 12, "signals", 60)
    assert_equal(tmp_path / "stopped", tmp_path / "whole")
    happened("exit code 75 each time, one good checkpoint; losses and SHA-256 as in the run that was never stopped")


@pytest.mark.slow
@pytest.mark.fault(45, "200 kills of one run")
def test_soak(kill, tmp_path, happened):
    length = 640  # a run is killed after at most five steps more, 2.6 on average
    kill(tmp_path / "whole", 0, "steps", length)
    attempts = kill(tmp_path / "killed", 200, "steps", length, seconds=1800)
    assert_equal(tmp_path / "killed", tmp_path / "whole")
    early, late = attempts[5:45], attempts[-45:-5]
    for name, slack in (("memory", 1.03), ("files", 1.0), ("shared", 1.0)):
        first, last = (statistics.median(a[name] for a in part) for part in (early, late))
        assert last <= first * slack, f"{name} grew from {first} to {last}"
    memory = statistics.median(a["memory"] for a in late) / statistics.median(a["memory"] for a in early)
    happened(f"bit for bit as never killed; peak memory x{memory:.2f}, open files and /dev/shm flat over 200 restarts")


@pytest.mark.slow
@pytest.mark.fault(1, "kill -9 of one of two processes that train and save sharded weights (FSDP2), 20 times")
def test_one_of_two_with_sharded_weights_is_killed(kill_pair, tmp_path, happened):
    (whole,) = kill_pair(tmp_path / "whole", 0, 60, "parallel.data=fsdp")
    *attempts, last = kill_pair(tmp_path / "killed", 20, 60, "parallel.data=fsdp")
    assert whole["exit"] == last["exit"] == [0, 0]
    assert len(attempts) == 20
    for number, attempt in enumerate(attempts):
        dead = number // 2 % 2
        assert attempt["exit"][dead] == -9 and attempt["exit"][1 - dead] == 75, attempt
    assert_equal(tmp_path / "killed", tmp_path / "whole")
    assert "student.00002-of-00002.safetensors" in state(tmp_path / "whole")[1]
    happened("the other one ends with 75; losses of all steps and the SHA-256 of every file as in the run never killed")
