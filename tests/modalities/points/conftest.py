"""Drawn clouds and one small run on them, so that tests of what comes after training need no data and no training."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundation.cli import main

SMALL = ("train.stop_after=2 steps", "train.batch_size=8", "train.log_every=1", "data.workers=0")
"""Settings that make two steps of any recipe quick."""


@pytest.fixture(scope="session")
def wires(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 36 + 24 clouds of 2,048 points."""
    out = tmp_path_factory.mktemp("wires") / "shards"
    assert main(["data", "build", "wires", str(out), "--train", "36", "--test", "24", "--points", "2048"]) == 0
    return out


@pytest.fixture(scope="session")
def small_run(wires: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of the small recipe."""
    run = tmp_path_factory.mktemp("run") / "run"
    settings = (f"data.shards=['{wires}/train-*.tar']", *SMALL)
    assert main(["pretrain", "shapes16-dino-ibot-nano", *settings, "--run", str(run)]) == 0
    return run
