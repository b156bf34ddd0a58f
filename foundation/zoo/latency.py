"""How long encoders take for one sample: the median of interleaved runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from foundation.parallel.placement import processor

WARM_UP, RUNS = 3, 31
"""Runs of each encoder that are not counted, and that are."""


@dataclass(frozen=True)
class Stopwatch:
    """Where and on what encoders are timed.

    Attributes:
        device: that computes.
        shape: of the view, without rows; one row is encoded, in float32.
    """

    device: torch.device
    shape: tuple[int, ...]

    @property
    def setting(self) -> str:
        """What a figure was measured on, for a person."""
        where = processor(self.device if self.device.type == "cuda" else None)
        threads = torch.get_num_threads()
        cores = f", {threads} thread{'' if threads == 1 else 's'}" if self.device.type == "cpu" else ""
        return f"one sample of {' x '.join(map(str, self.shape))}, float32, {self.device.type} ({where}{cores})"

    def facts(self) -> dict[str, Any]:
        """The same for a result file."""
        return {
            "setting": self.setting,
            "device": self.device.type,
            "shape": list(self.shape),
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "warm_up": WARM_UP,
            "runs": RUNS,
        }

    def seconds(
        self, encoders: Sequence[nn.Module], runs: int = RUNS, told: Callable[[range], Any] | None = None
    ) -> list[float]:
        """Median seconds of each encoder.

        They take turns, each round beginning with the next one, so that what else the machine does, be it in a rhythm,
        falls on all alike; the first runs do not count.

        Args:
            encoders: on the device, in evaluation mode.
            runs: of each.
            told: goes through the rounds and shows them, such as a progress bar.
        """
        view = torch.randn(1, *self.shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        taken = np.zeros((WARM_UP + runs, len(encoders)))
        with torch.inference_mode():
            for number in range(len(taken)) if told is None else told(range(len(taken))):
                for turn in range(len(encoders)):
                    place = (turn + number) % len(encoders)
                    self._wait()
                    begun = time.perf_counter()
                    encoders[place]([view])
                    self._wait()
                    taken[number, place] = time.perf_counter() - begun
        return [float(value) for value in np.median(taken[WARM_UP:], axis=0)]

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
