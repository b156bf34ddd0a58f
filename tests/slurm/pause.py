"""A plug-in that lets the steps of a job's first start take some time, so that tests can disturb it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from foundation.jobs.base import Job, JobContext
from foundation.schedules import Duration


@dataclass(frozen=True, kw_only=True)
class Config:
    """Waits."""

    every: Duration
    """Distance between two runs."""

    def build(self, context: JobContext) -> Pause:
        return Pause()


class Pause(Job):
    def run(self, context: JobContext) -> dict[str, float]:
        if os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
            time.sleep(float(os.environ.get("TEST_PAUSE", "0")))
        return {}
