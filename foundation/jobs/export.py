"""Exports on the way: the encoder of a branch as a model of its own, every so many steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from foundation.jobs.base import Job, JobContext
from foundation.parallel.blocks import any_sharded
from foundation.ranges import Range, check
from foundation.schedules import Duration
from foundation.zoo.export import export_branch


@dataclass(frozen=True, kw_only=True)
class Config:
    """An export every so often, ``RUN/export/step-00001000/BRANCH.safetensors`` with its card. They are all kept."""

    every: Annotated[Duration, Range(0, 1e9, above=True)]
    """Distance between two exports."""
    branch: str | None = None
    """Branch whose encoder is exported; None: the measured one."""

    def __post_init__(self) -> None:
        check(self, "export")

    def build(self, context: JobContext) -> ExportJob:
        """The job.

        Raises:
            UserError: no branch with an encoder has this name.
        """
        context.branch(self.branch)
        return ExportJob(self.branch)


class ExportJob(Job):
    """See :class:`Config`."""

    doing = "export"

    def __init__(self, branch: str | None) -> None:
        super().__init__()
        self.branch = branch

    def run(self, context: JobContext) -> Mapping[str, float]:
        """Process 0 writes, all help where weights are sharded; a disk that is full is said and ends nothing."""
        name = self.branch or context.learner.measured
        sharded = any_sharded({name: context.branch(name).state_dict()})
        if context.folder is None or (context.rank != 0 and not sharded):
            return {}
        path = context.folder / "export" / f"step-{context.total_step:08d}" / f"{name}.safetensors"
        step, computed = context.total_step, context.placement.plain()
        try:
            export_branch(path, context.recipe, context.learner, name, step, computed)
        except OSError as error:
            context.say(f"warning: step {step:,}: the export cannot be written to {path.parent}: {error}")
        return {}
