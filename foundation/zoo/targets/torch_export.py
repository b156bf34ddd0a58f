"""A program of ``torch.export``: one file that torch runs without this package."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foundation.zoo.targets.base import Outputs, Plain, Reader, Source

NAMES = ("cls", "patches", "registers")
"""Of a program's results, in their order."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """``torch.export``."""

    def build(self) -> TorchExport:
        """The target."""
        return TorchExport()


class TorchExport:
    """Any number of views of the evaluation's size; results are class token, patch tokens and, where there are some,
    registers. The card is the program's extra file ``card.json``."""

    packages: tuple[str, ...] = ()
    tolerance = 1e-5
    ending = ".pt2"

    def beside(self, path: Path) -> Sequence[Path]:
        """Nothing: it is one file."""
        return []

    def refusal(self, source: Source) -> str:
        """Every encoder of ours can be traced."""
        return ""

    def write(self, source: Source, path: Path) -> Sequence[str]:
        """Trace the encoder and write the program."""
        buffer = io.BytesIO()  # torch's writer of files ends the process where the disk is full
        torch.export.save(traced(source), buffer, extra_files={"card.json": json.dumps(source.card())})
        with path.open("wb") as file:
            file.write(buffer.getbuffer())
        return []

    def read(self, path: Path) -> Reader:
        """By ``torch.export.load``."""
        program = torch.export.load(path).module()

        @torch.no_grad()
        def run(view: Tensor) -> Outputs:
            return dict(zip(NAMES, program(view), strict=False))

        return run


def traced(source: Source) -> Any:
    """The encoder as an ``ExportedProgram`` with any number of rows."""
    source.outputs(source.view[:1])  # tables of positions are made now, and not while it is traced
    view = source.view if len(source.view) > 1 else source.view.repeat(2, *[1] * (source.view.ndim - 1))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its own
        return torch.export.export(
            Plain(source.encoder), (view,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
        )
