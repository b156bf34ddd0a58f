"""The jobs of a stage: built from its recipe, run when they are due, saved with its state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol, cast

from torch import nn

from foundation.data.shards import ShardSet
from foundation.data.sources import Stream
from foundation.engine.learner import Learner
from foundation.engine.state import Progress, kept_random
from foundation.errors import RecipeError, UserError
from foundation.jobs.base import Job, JobContext
from foundation.parallel.collective import on_first_rank
from foundation.parallel.placement import Placement
from foundation.run.recipe import Recipe
from foundation.run.watchdog import Watchdog
from foundation.schedules import Clock


class OfStage(Protocol):
    """What jobs need to know of their stage."""

    @property
    def recipe(self) -> Recipe: ...
    @property
    def seed(self) -> int: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def begun(self) -> int: ...
    @property
    def sources(self) -> Mapping[str, ShardSet]: ...


class Jobs:
    """See above.

    Args:
        stage: whose they are.
        learner: of the stage.
        placement: where it computes.
        stream: order of the samples; None in a dry run.
        folder: of the run; None in a dry run.
        say: gets each line meant for a person.

    Attributes:
        modules: the jobs by name.

    Raises:
        RecipeError: jobs that cannot work, or have no interval.
    """

    def __init__(
        self,
        stage: OfStage,
        learner: Learner,
        placement: Placement,
        stream: Stream | None,
        folder: Path | None,
        say: Callable[[str], None],
    ) -> None:
        self.clock, self.modules = stage.clock, nn.ModuleDict()
        self._every: dict[str, int] = {}
        self._context = JobContext(
            recipe=stage.recipe, learner=learner, clock=stage.clock, step=0, total_step=stage.begun,
            placement=placement, sources=stage.sources, stream=stream, seed=stage.seed, folder=folder, say=say,
        )  # fmt: skip
        problems: list[tuple[str, str]] = []
        probes = len(stage.recipe.probes)
        for number, config in enumerate(stage.recipe.all_jobs):
            key = f"probes.{number}" if number < probes else f"jobs.{number - probes}"
            kind = type(config).__module__.rpartition(".")[2]
            name = next(n for n in (kind, *(f"{kind}-{i}" for i in range(2, 10**6))) if n not in self.modules)
            try:
                job = config.build(self._context)
            except UserError as error:
                problems.append((key, f"{name}: {error}"))
                continue
            self.modules[name] = job.to(placement.device)
            self._every[name] = max(1, config.every.steps(self.clock))
        problems += [(f"branches.{name}", text) for name, text in self._unset(learner)]
        if problems:
            raise RecipeError(problems)

    def _unset(self, learner: Learner) -> Iterator[tuple[str, str]]:
        """Branches that wait for a job which the recipe does not have, and what to add."""
        done = {name for _, job in self._named() for name in job.sets}
        for name, branch in learner.named_branches.items():
            if branch.set_by_job and name not in done:
                job = f"{{name: refresh, branch: {name}, every: ...}}"
                yield name, f"no job sets the branch {name!r}: add {job} to jobs, or make it at: start"

    def due(self, step: int, last: bool) -> list[str]:
        """Jobs that are to run.

        Args:
            step: optimiser steps of the stage that are done.
            last: no further one comes, in this stage or in this process.
        """
        return [name for name, job in self._named() if self._is_due(name, job, step, last)]

    def _is_due(self, name: str, job: Job, step: int, last: bool) -> bool:
        return job.at_start if step == 0 else step % self._every[name] == 0 or (last and job.at_end)

    @property
    def enough(self) -> bool:
        """Whether some job says that the stage may end here."""
        return any(job.enough for _, job in self._named())

    def _named(self) -> Iterator[tuple[str, Job]]:
        return ((name, cast(Job, module)) for name, module in self.modules.items())

    def run(self, progress: Progress, last: bool, watchdog: Watchdog, folder: Path) -> Iterator[Mapping[str, float]]:
        """Run what is due; all processes call this at the same step.

        Args:
            progress: where the run is.
            last: as for :meth:`due`.
            watchdog: of this process; a job may take longer than a step.
            folder: of the run, as it is called now.

        Yields:
            Figures of each.
        """
        for name in self.due(progress.of_stage, last):
            job = cast(Job, self.modules[name])
            context = replace(self._context, step=progress.of_stage, total_step=progress.step, folder=folder)
            with watchdog.longer(job.doing), kept_random():
                own = dict(job.run(context))
                # All leave together: who is done first would wait for the others in a step, with a step's patience.
                figures = on_first_rank(own.copy)
            yield figures
