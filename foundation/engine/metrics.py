"""Metrics of a run: one JSON object a line, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from foundation.engine.lines import read_lines
from foundation.files import replace_file

_KEPT = 100_000  # lines that wait for a full disk to have room again


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


class MetricsWriter:
    """Appends to ``metrics.jsonl`` and ``tensorboard/``.

    A disk that is full does not end the run: lines wait in memory and are written once there is room again.

    Args:
        folder: the run folder.
        resumed_step: lines of later steps are dropped: the resumed run writes them again.
        say: is told when nothing can be written, and when it can again.
    """

    def __init__(self, folder: Path, resumed_step: int = 0, say: Callable[[str], None] = _to_stderr) -> None:
        self.path, self._say = folder / "metrics.jsonl", say
        if self.path.is_file():
            kept = [line for line in read(self.path) if line["step"] <= resumed_step]
            replace_file(self.path, b"".join(json.dumps(line).encode() + b"\n" for line in kept))
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._waiting: deque[bytes] = deque(maxlen=_KEPT)
        self._failed = False
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            purge = resumed_step + 1 if resumed_step else None
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)
        except OSError as error:
            self._give_up_board(error)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Log numbers of one step. NaN and infinities become null in JSON, which has no word for them."""
        line = {"step": step, **{key: _plain(value) for key, value in values.items()}}
        self._waiting.append(json.dumps(line).encode() + b"\n")
        self._write_waiting()
        for key, value in values.items():
            if isinstance(value, (int, float)) and self._board is not None:
                try:
                    self._board.add_scalar(key, value, step)
                except OSError as error:
                    self._give_up_board(error)

    def close(self) -> None:
        self._write_waiting()
        if self._waiting:
            self._say(f"{len(self._waiting)} lines of metrics could not be written to {self.path} and are lost")
        os.close(self._descriptor)
        if self._board is not None:
            try:
                self._board.close()
            except OSError as error:
                self._give_up_board(error)

    def _write_waiting(self) -> None:
        while self._waiting:
            line = self._waiting[0]
            try:
                written = os.write(self._descriptor, line)
            except OSError as error:
                if not self._failed:
                    self._failed = True
                    self._say(f"metrics cannot be written to {self.path}: {error.strerror}; the run goes on, they wait")
                return
            if written < len(line):
                self._waiting[0] = line[written:]
            else:
                self._waiting.popleft()
        if self._failed:
            self._failed = False
            self._say(f"metrics are written to {self.path} again; none was lost")

    def _give_up_board(self, error: OSError) -> None:
        board, self._board = self._board, None
        if board is not None:  # its thread ends by itself once it has failed; closing would raise again
            board.file_writer = board.all_writers = None
        self._say(f"no more curves for TensorBoard: {error.strerror or error}; {self.path.name} has every number")


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path: Path) -> list[dict[str, Any]]:
    """Lines of a metrics file; damaged ones, such as a last one cut short by a kill, are left out."""
    return read_lines(path)[0]
