"""A probe as a job: a branch's encoder is measured as it stands. The recipe's ``probes`` become these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from foundation.jobs.base import Job, JobContext
from foundation.parallel.parallelize import gathered
from foundation.plugins import Plugin
from foundation.ranges import Range, check
from foundation.schedules import Duration


@dataclass(frozen=True, kw_only=True)
class Config:
    """A probe every so often, and at the end of the stage. ``probes`` is the short form."""

    every: Annotated[Duration, Range(0, 1e9, above=True)]
    """Distance between two measurements."""
    probe: Annotated[Any, Plugin("foundation.probes.{name}")]
    """What is measured; its own ``every`` does not count."""
    branch: str | None = None
    """Branch whose encoder is measured; None: the measured one."""

    def __post_init__(self) -> None:
        check(self, "probe")

    def build(self, context: JobContext) -> ProbeJob:
        """The job.

        Raises:
            UserError: no branch with an encoder has this name.
        """
        context.branch(self.branch)
        return ProbeJob(self)


class ProbeJob(Job):
    """See :class:`Config`."""

    doing = "probe"
    at_end = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def run(self, context: JobContext) -> Mapping[str, float]:
        """All processes measure together; the probe says how they share the work, and process 0's figures count."""
        with gathered(context.branch(self.config.branch).encoder):
            return self._measure(context)

    def _measure(self, context: JobContext) -> dict[str, float]:
        encoder = context.branch(self.config.branch).encoder
        views = context.recipe.views
        modes = {module: module.training for module in encoder.modules()}
        try:
            figures: dict[str, float] = self.config.probe.build().measure(
                encoder.eval(), modality=views.modality, evaluation=views.evaluation(), device=context.placement.device
            )
        finally:
            for module, mode in modes.items():
                module.training = mode
        return figures
