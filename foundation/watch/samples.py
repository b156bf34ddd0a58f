"""What training saw in the first samples of a run, drawn when the page asks, by a process of its own.

The server needs no torch, and a recipe that takes long or ends the process does no harm to the page.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from foundation.errors import FoundationError, UserError
from foundation.printable import printable
from foundation.search_path import FIND
from foundation.watch.board import WatchedRun

SECONDS = 120.0
"""Time that the pictures of a run may take."""
_SAMPLES = 4
_MOST_KEPT = 32
_MOST_BYTES = 32 << 20
_LOW_PRIORITY = 10  # nice: the training comes first
_DRAW = f"{FIND}; from foundation.watch.samples import main; sys.exit(main())"

Answer = dict[str, Any]


class Samples:
    """Pictures by run, made one run at a time and kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._drawing = threading.Lock()
        self._answers: dict[tuple[str, Any], Answer] = {}

    def of(self, run: WatchedRun) -> Answer:
        """The pictures of a run, as far as they are there: ``state`` is ``making``, ``ready`` or ``problem``."""
        key = (run.id, run.recipe_stamp)
        with self._lock:
            known = self._answers.get(key)
            if known is not None:
                return known
            while len(self._answers) >= _MOST_KEPT:
                del self._answers[next(iter(self._answers))]
            self._answers[key] = {"state": "making"}
        threading.Thread(target=self._make, args=(key, run.folder), name="samples", daemon=True).start()
        return {"state": "making"}

    def _make(self, key: tuple[str, Any], folder: Path) -> None:
        with self._drawing:
            answer = drawn(folder)
        with self._lock:
            self._answers[key] = answer


def drawn(folder: Path, seconds: float = SECONDS) -> Answer:
    """Draw the pictures of a run folder in another process.

    Args:
        folder: of the run.
        seconds: after which the process is ended.
    """
    words = [sys.executable, "-P", "-c", _DRAW, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, env=environment, check=False
        )
        answer: Answer = json.loads(done.stdout[:_MOST_BYTES])
    except subprocess.TimeoutExpired:
        return _problem(f"the pictures took longer than {seconds:g} s; foundation report makes them without a limit")
    except (OSError, ValueError):
        return _problem("the pictures could not be made; foundation report says why")
    return answer


def _problem(text: str) -> Answer:
    return {"state": "problem", "text": text}


def main() -> int:
    """What the other process does: prints the pictures of the run folder that its argument names, as JSON."""
    os.nice(_LOW_PRIORITY)
    out = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no JSON
    try:
        answer = pictures(Path(sys.argv[1]))
    except FoundationError as error:
        answer = _problem(printable(error))
    with open(out, "w", encoding="utf-8") as file:
        json.dump(answer, file)
    return 0


def pictures(folder: Path) -> Answer:
    """The pictures of a run folder, drawn in this process, which needs torch.

    Raises:
        FoundationError: the recipe or its shards cannot be read, or are on another machine.
    """
    from foundation import config
    from foundation.report.run import read_run
    from foundation.report.views import training_views
    from foundation.run.recipe import Recipe

    recipe = config.load(Recipe, read_run(folder).recipe, name=str(folder / "recipe.yaml"))
    stage = recipe.stage(0)
    if any("://" in pattern for pattern in stage.data.patterns):
        # A page that is looked at fetches nothing because somebody's recipe says so.
        raise UserError("its shards are on another machine: foundation report makes the pictures")
    sheet = training_views(recipe, samples=_SAMPLES)
    return {
        "state": "ready",
        "kinds": [printable(kind) for kind in sheet.kinds],
        "legend": sheet.legend,
        "notes": [printable(note) for note in sheet.notes],
        "samples": [
            {
                "name": printable(sample.name),
                "pictures": [
                    {"title": printable(item.title), "uri": item.picture, "width": item.width}
                    for item in sample.pictures
                ],
            }
            for sample in sheet.samples
        ],
    }
