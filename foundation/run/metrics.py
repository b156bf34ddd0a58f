"""Metrics of a run: one JSON object a line, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from foundation.files import replace_file
from foundation.records import Records
from foundation.run.curves import Curves
from foundation.run.lines import read_lines
from foundation.voice import plural, to_stderr

_KEPT = 100_000  # lines that wait for a full disk to have room again


class MetricsWriter:
    """Appends to ``metrics.jsonl`` and ``tensorboard/``.

    A disk that is full does not end the run: lines wait in memory and are written once there is room again.

    Args:
        folder: the run folder.
        resumed_step: lines of later steps are dropped: the resumed run writes them again.
        say: is told when nothing can be written, and when it can again.
    """

    def __init__(self, folder: Path, resumed_step: int = 0, say: Callable[[str], None] = to_stderr) -> None:
        self.path, self._say, self._records = folder / "metrics.jsonl", say, Records(say)
        self._resumed_step: int | None = resumed_step  # until later lines are dropped
        self._descriptor: int | None = None
        self._waiting: deque[bytes] = deque(maxlen=_KEPT)
        self._write_waiting()
        self._folder, self._purge_step = folder / "tensorboard", resumed_step + 1 if resumed_step else None
        self._curves: Curves | None = None
        self._draw(resumed_step, {})

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Log numbers of one step. NaN and infinities become null in JSON, which has no word for them."""
        line = {"step": step, **{key: _plain(value) for key, value in values.items()}}
        self._waiting.append(json.dumps(line).encode() + b"\n")
        self._write_waiting()
        self._draw(step, {key: value for key, value in values.items() if isinstance(value, (int, float))})

    def _draw(self, step: int, values: Mapping[str, float]) -> None:
        def write() -> None:
            if self._curves is None:
                self._curves = Curves(self._folder, self._purge_step)
            self._curves.write(step, values)

        missing = f"{self.path.name} has every number"
        self._records.keep("no more curves for TensorBoard in", self._folder, write, missing)

    def close(self) -> None:
        self._write_waiting()
        if self._waiting:
            self._say(f"{plural(len(self._waiting), 'line')} of metrics could not be written to {self.path}: lost")
        if self._descriptor is not None:
            os.close(self._descriptor)
        if self._curves is not None:
            self._curves.close()

    def _write_waiting(self) -> None:
        self._records.keep(
            "metrics cannot be written to", self.path, self._write_all, "the run goes on, they wait", "; none was lost"
        )

    def _write_all(self) -> None:
        if self._resumed_step is not None:
            if self.path.is_file():
                drop_later(self.path, self._resumed_step)
            self._resumed_step = None
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        while self._waiting:
            line = self._waiting[0]
            written = os.write(self._descriptor, line)
            if written < len(line):
                self._waiting[0] = line[written:]
            else:
                self._waiting.popleft()


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def drop_later(path: Path, step: int) -> None:
    """Remove the lines of steps after ``step``, and a line cut short by a kill.

    Raises:
        OSError: the file can be neither replaced nor cut.
    """
    kept = [line for line in read(path) if line["step"] <= step]
    whole = path.read_bytes()
    wanted = b"".join(json.dumps(line).encode() + b"\n" for line in kept)
    if wanted == whole:
        return
    if whole.startswith(wanted):  # as good as always: needs no room, so that a full disk does not matter
        os.truncate(path, len(wanted))
    else:
        replace_file(path, wanted)


def read(path: Path) -> list[dict[str, Any]]:
    """Lines of a metrics file; damaged ones, such as a last one cut short by a kill, are left out."""
    return read_lines(path)[0]
