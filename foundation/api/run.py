"""A run folder as a value: what it is called, how far it has come, what it measured, its model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation.run import runs
from foundation.zoo.model import Model, Tokens
from foundation.zoo.model import load as load_model


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        folder: of the run; every command takes it as a model.
        state: ``done``, or ``stopped`` where it was told to end before its length.
        step: optimiser steps that are done.
        total: steps of the whole run; None where that is not known.
    """

    folder: Path
    state: str
    step: int
    total: int | None

    def load(self, *, branch: str | None = None, device: str = "cpu", tokens: Tokens = "cls") -> Model:
        """Its model; arguments as of :func:`foundation.load`."""
        return load_model(self.folder, branch=branch, device=device, tokens=tokens)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Its log in order: a mapping with ``step`` for each line, such as ``loss/total`` or ``probe/knn_top1``."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def run_of(folder: Path) -> Run:
    """The run in a folder."""
    found = runs.summary(folder)
    return Run(folder, found.state, found.step, found.total)
