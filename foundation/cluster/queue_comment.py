"""Step and loss of a run in the queue's comment, so that ``squeue -o '%i %k'`` shows them to everybody."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TypedDict

from foundation import schema
from foundation.cluster import slurm
from foundation.errors import FoundationError
from foundation.run.runs import HEARTBEATS
from foundation.voice import to_stderr

_SECONDS = 30.0  # between two comments: each is a call that the controller answers


class _Beat(TypedDict, total=False):
    step: int | None
    total: int | None
    loss: float | None
    doing: str | None


class QueueComment:
    """While entered, a thread tells the queue how far the run is, where that has changed. Process 0 has one.

    Where the queue does not take it, that is said once, and not tried again.

    Args:
        job: number of the job.
        run: the run folder, whose heartbeat is read.
        seconds: between two comments.
    """

    def __init__(self, job: str, run: Path, seconds: float = _SECONDS) -> None:
        self._job, self._path, self._seconds = job, run / HEARTBEATS / "rank0.json", seconds
        self._said = ""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="queue comment", daemon=True)

    def __enter__(self) -> QueueComment:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(timeout=1.0)

    def _tell(self) -> None:
        while not self._end.wait(self._seconds):
            text = text_of(self._path)
            if not text or text == self._said:
                continue
            try:
                slurm.comment(self._job, text)
            except FoundationError as error:
                to_stderr(f"foundation: the queue does not show how far the run is: {error}")
                return
            self._said = text


def text_of(path: Path) -> str:
    """``step=120/4000 loss=3.412`` from a heartbeat; empty where there is none yet."""
    try:
        beat = schema.read_json(_Beat, path)
    except (FileNotFoundError, schema.FormError):
        return ""
    step, total, loss = beat.get("step"), beat.get("total"), beat.get("loss")
    if step is None:
        return ""
    return f"step={step}{f'/{total}' if total else ''}" + (f" loss={loss:.4g}" if loss is not None else "")
