"""Metrics of a run: one JSON object a line, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundation.files import replace_file


class MetricsWriter:
    """Appends to ``metrics.jsonl`` and ``tensorboard/``.

    Args:
        folder: the run folder.
        resumed_step: lines of later steps are dropped: the resumed run writes them again.
    """

    def __init__(self, folder: Path, resumed_step: int = 0) -> None:
        self.path = folder / "metrics.jsonl"
        if self.path.exists():
            kept = [line for line in read(self.path) if line["step"] <= resumed_step]
            replace_file(self.path, b"".join(json.dumps(line).encode() + b"\n" for line in kept))
        self._file = self.path.open("a", buffering=1)
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_step + 1 if resumed_step else None)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Log numbers of one step. NaN and infinities become null in JSON, which has no word for them."""
        line = {"step": step, **{key: _plain(value) for key, value in values.items()}}
        self._file.write(json.dumps(line) + "\n")
        for key, value in values.items():
            if isinstance(value, (int, float)):
                self._board.add_scalar(key, value, step)

    def close(self) -> None:
        self._file.close()
        self._board.close()


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path: Path) -> list[dict[str, Any]]:
    """Lines of a metrics file; a last line cut short by a kill is left out."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines
