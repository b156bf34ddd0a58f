"""Running the data sets as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from foundation.cli import Parser
from foundation.data.build import load

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def read() -> Callable[..., dict[str, list[dict[str, Any]]]]:
    """``read("digits", "--copies", "1")``: all samples by split, without writing shards."""

    def run(name: str, *words: str) -> dict[str, list[dict[str, Any]]]:
        return {split: list(samples) for split, samples in prepare(name, *words).items()}

    return run


def prepare(name: str, *words: str) -> Mapping[str, Any]:
    dataset = load(name)
    parser = Parser()
    dataset.module.add_arguments(parser)
    return dataset.module.samples(parser.parse_args(words))


@dataclass
class Done:
    """What a finished command left behind."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """``command("data", "build", ...)``: the program, run from an empty folder, in this process for speed."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: object) -> Done:
        from foundation.cli import main

        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Done]:
    """As ``command``, in a process of its own, as a user starts it."""

    def run(*words: object) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "foundation.cli", *map(str, words)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run
