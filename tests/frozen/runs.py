"""The runs whose losses are frozen in ``losses.json``: how one is made again, by the public command alone.

``losses.json`` holds inputs and results of every run in one place:

- ``everywhere``: settings that all runs share;
- ``data``: data sets by name: ``shards`` of a ``shared`` data set, or the words of ``foundation data build``, in which
  ``{shared}`` is the folder of the ``shared`` data set;
- ``runs``: by name the recipe, data, settings, whether it is ``slow``, and ``values``: each loss and the norm of the
  gradient, a number for each optimiser step;
- ``recorded``: what rounding depends on, where the values were recorded.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from foundation.cli import main

FILE = Path(__file__).with_name("losses.json")
STEPS = 5


def load() -> dict[str, Any]:
    """What ``losses.json`` holds."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def rounding() -> dict[str, str]:
    """What the last bits of a sum depend on beside the program: processor, its vector instructions, libraries."""
    return {
        "machine": platform.machine(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__.partition("+")[0],
    }


def settings(frozen: dict[str, Any], name: str) -> list[str]:
    """Settings of a run, without its data."""
    return [*frozen["everywhere"], *frozen["runs"][name]["settings"]]


def shards(entry: dict[str, Any], shared: Callable[[str], Path], folder: Path) -> str:
    """Pattern of the shards of a data set; one that is made goes to the folder.

    Args:
        entry: of ``data`` in ``losses.json``.
        shared: the folder of a shared data set.
        folder: new.
    """
    if "build" not in entry:
        return str(shared(entry["shared"]) / entry["shards"])
    root = str(shared(entry["shared"])) if "shared" in entry else ""
    words = [word.format(shared=root) for word in entry["build"]]
    code = main(["data", "build", words[0], str(folder), *words[1:]])
    assert code == 0, f"data build {words[0]} ended with {code}"
    return str(folder / "train-*.tar")


def measure(recipe: str, words: list[str], folder: Path) -> dict[str, list[float]]:
    """Losses and gradient norm of a new run of a recipe: a number for each step, as its metrics file has them."""
    with _one_thread():
        code = main(["pretrain", recipe, *words, "--run", str(folder)])
    assert code == 0, f"pretrain {recipe} ended with {code}"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    kept = [key for key in lines[0] if key == "loss" or key.startswith("loss/") or key == "gradient/norm"]
    return {key: [line[key] for line in lines] for key in kept}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums depend on the number of threads; a run leaves the number alone where the environment has it."""
    before, said = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if said is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = said
