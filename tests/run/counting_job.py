"""A job with a state, as a plug-in of a user: it draws numbers, sums what it has seen, and hands a figure back."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import numpy as np
import torch

from foundation.jobs.base import Job, JobContext
from foundation.schedules import Duration


@dataclass(frozen=True, kw_only=True)
class Config:
    """Counts."""

    every: Duration
    """Distance between two runs."""
    seconds: float = 0.0
    """How long each takes on process 0."""

    def build(self, context: JobContext) -> Counting:
        return Counting(self.seconds)


class Counting(Job):
    at_start = True

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.register_buffer("runs", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seen", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("sum", torch.zeros((), dtype=torch.float64))

    def run(self, context: JobContext) -> dict[str, float]:
        if context.rank == 0 and self.runs:  # the first step has a longer time of its own
            time.sleep(self.seconds)
        numbers = torch.cat([batch.ids for batch in context.samples(batch_size=7)])
        assert numbers.tolist() == sorted(numbers.tolist())
        weights = context.branch().encoder.state_dict().values()
        self.runs += 1
        self.sum += sum(float(value.double().sum()) for value in weights)
        torch.rand(1 + context.rank), np.random.rand(3), random.random()
        return {"count/runs": float(self.runs), "count/samples": float(len(numbers)), "count/sum": float(self.sum)}
