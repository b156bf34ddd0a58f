"""Real processes that find each other over gloo."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def together(tmp_path: Path) -> Callable[..., list[subprocess.CompletedProcess[str]]]:
    """``together(code, 2)``: run Python code in two processes that find each other; what each printed."""

    def run(code: str, count: int, *arguments: str, seconds: float = 240) -> list[subprocess.CompletedProcess[str]]:
        script = tmp_path / "script.py"
        script.write_text(code)
        environment = os.environ | {
            "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
        }  # fmt: skip
        children = [
            subprocess.Popen(
                [sys.executable, str(script), *arguments],
                env=environment | {"RANK": str(index), "LOCAL_RANK": str(index)},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for index in range(count)
        ]  # fmt: skip
        done = []
        for child in children:
            out, error = child.communicate(timeout=seconds)
            done.append(subprocess.CompletedProcess(child.args, child.returncode, out, error))
        return done

    return run


@pytest.fixture
def many_runs(tmp_path: Path) -> Callable[..., list[list[int]]]:
    """``many_runs([[2, ["pretrain", ...], "log"], ...])``: commands in so many processes; exit codes of each."""

    def run(plan: list[list[Any]], path: Path = ROOT, seconds: float = 900) -> list[list[int]]:
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("many_runs.py")), str(tmp_path / "plan.json")],
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{path}", "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=seconds,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        codes: list[list[int]] = json.loads(done.stdout)
        return codes

    return run
