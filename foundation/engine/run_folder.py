"""The run folder: where everything a run writes has one place."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any

from foundation.errors import UserError
from foundation.files import replace_file

_ATTEMPTS = 5


class RunFolder:
    """Paths of a run, and the lock that keeps a second process out while one trains.

    Args:
        path: the folder; made when it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.yaml"
        self.metrics = path / "metrics.jsonl"
        self.status = path / "status.json"
        self.checkpoints = path / "checkpoints"
        self.export = path / "export"
        self.probes = path / "probes"
        self._lock: int | None = None
        _FOLDERS.add(self)

    def used(self) -> bool:
        """Whether a run has been here."""
        return self.recipe.exists() or self.checkpoints.exists() or self.metrics.exists()

    def __enter__(self) -> RunFolder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"cannot write to the run folder {self.path}: {error}") from error
        for attempt in range(_ATTEMPTS):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:  # `foundation runs` holds a lock for an instant when it looks at one
                if attempt < _ATTEMPTS - 1:
                    time.sleep(0.05)
                    continue
                os.close(self._lock)
                self._lock = None
                raise UserError(
                    f"another process is training in {self.path}: stop it or choose another --run"
                ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write_recipe(self, text: str) -> None:
        """Keep the resolved recipe of the run."""
        replace_file(self.recipe, text.encode())

    def clear(self) -> None:
        """Remove what a run wrote here, and nothing else."""
        for name in ("checkpoints", "export", "probes", "tensorboard", "heartbeat", "stalls"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        lists = (self.path / "bad-steps.jsonl", self.path / "bad-samples.jsonl")
        files = (self.recipe, self.metrics, self.status, self.path / "report.html", *lists)
        for path in files:
            path.unlink(missing_ok=True)

    def write_status(self, state: str, **values: Any) -> None:
        """Say in ``status.json`` how the run stands (``running``, ``done``, ``stopped``, ``failed``)."""
        content = {"state": state, "time": time.time(), "pid": os.getpid(), **values}
        replace_file(self.status, json.dumps(content, indent=1).encode())


_FOLDERS: weakref.WeakSet[RunFolder] = weakref.WeakSet()


def _forget_locks() -> None:
    """A forked loader worker shares the lock; one that outlives its killed run would keep the next one out."""
    for folder in list(_FOLDERS):
        folder._unlock()


os.register_at_fork(after_in_child=_forget_locks)
