"""The saver: takes the training state quickly and writes it while training goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from foundation.errors import UserError
from foundation.schedules import Duration


@dataclass(frozen=True, kw_only=True)
class Config:
    """When checkpoints are written, and which of them stay on disk."""

    every: Duration = Duration(1, "epochs")
    """Steps between two checkpoints; one is also written at the end and on a signal."""
    keep_last: int = 2
    """Newest checkpoints that stay on disk; at least 2, because the newest one may turn out to be damaged."""
    keep_every: Duration | None = None
    """A checkpoint at each multiple of this stays for good; null: none does."""
    keep_best: str | None = None
    """The checkpoint at which this figure of a probe was highest stays, such as ``knn/accuracy``; null: none does."""
    asynchronous: bool = True
    """Training goes on while a checkpoint is written. Costs the memory of one copy of the training state."""
    when_disk_full: Literal["continue", "stop"] = "continue"
    """After a checkpoint that could not be written: go on and say so, or end with exit code 75."""

    def __post_init__(self) -> None:
        if self.keep_last < 2:
            raise UserError(f"checkpoints.keep_last must be at least 2 (one may be damaged), got {self.keep_last}")
        for name in ("every", "keep_every"):
            duration = getattr(self, name)
            if duration is not None and duration.amount <= 0:
                raise UserError(f"checkpoints.{name} must be above 0, got {duration.to_yaml()}")
