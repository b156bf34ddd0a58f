"""Run folders written by hand, as a run leaves them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RECIPE = "name: {name}\nseed: {seed}\ntrain:\n  length: 1000 steps\n  batch_size: 8\n"


def write_run(folder: Path, steps: Iterable[int] = range(10, 210, 10), name: str = "tiny", seed: int = 0) -> Path:
    """A run that says it has stopped."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RECIPE.format(name=json.dumps(name), seed=seed), encoding="utf-8")
    (folder / ".lock").touch()
    (folder / "metrics.jsonl").touch()
    log(folder, steps)
    steps = list(steps)
    state = {"state": "stopped", "time": time.time(), "pid": 1, "step": steps[-1] if steps else 0, "total": 1000}
    (folder / "status.json").write_text(json.dumps(state), encoding="utf-8")
    return folder


def line(step: int, **figures: Any) -> str:
    """One line of metrics."""
    content = {"step": step, "loss": round(5 - step / 500, 6), "schedule/learning_rate": 1e-3,
               "throughput/samples_per_second": 80.0, "time/seconds": step / 10, **figures}  # fmt: skip
    return json.dumps(content) + "\n"


def log(folder: Path, steps: Iterable[int]) -> None:
    """Append lines, with a probe every hundred steps."""
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        for step in steps:
            file.write(line(step))
            if step % 100 == 0:
                file.write(json.dumps({"step": step, "probe/knn_top1": step / 2000}) + "\n")
