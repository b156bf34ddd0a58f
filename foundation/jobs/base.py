"""What a job is: work between two steps, every so often, on all processes at once: a probe, an export, a clustering."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from foundation.branches.base import EncoderBranch
from foundation.data.loader import make_loader
from foundation.data.pipeline import EvalBatch, EvalPipeline
from foundation.data.plans import PlannedBatches, Plans
from foundation.data.shards import ShardSet
from foundation.data.sources import Stream, single
from foundation.engine.learner import Learner
from foundation.errors import UserError
from foundation.parallel.collective import rank, world_size
from foundation.schedules import Clock


class Place(Protocol):
    """Where a run computes."""

    @property
    def device(self) -> torch.device: ...

    @property
    def autocast(self) -> torch.dtype | None: ...

    def plain(self) -> dict[str, str]: ...


@dataclass(frozen=True)
class JobContext:
    """What a job may know, when it is built and when it runs.

    Attributes:
        recipe: flat, of the stage.
        learner: branches by name, objectives, stores.
        clock: length of the stage.
        step: optimiser steps of the stage that are done.
        total_step: those of the whole run.
        placement: device and precision.
        sources: opened shards by name; empty in a dry run without them.
        stream: order of the samples in training; None in a dry run.
        seed: of the stage.
        folder: of the run; None in a dry run.
        say: gets each line meant for a person; process 0 alone is heard.
    """

    recipe: Any
    learner: Learner
    clock: Clock
    step: int
    total_step: int
    placement: Place
    sources: Mapping[str, ShardSet]
    stream: Stream | None
    seed: int
    folder: Path | None
    say: Callable[[str], None]

    @property
    def rank(self) -> int:
        """Number of this process."""
        return rank()

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return world_size()

    @property
    def num_samples(self) -> int:
        """Samples of all sources."""
        return sum(int(shards.num_samples) for shards in self.sources.values())

    def branch(self, name: str | None = None) -> EncoderBranch:
        """A branch that has an encoder.

        Args:
            name: None: the measured one.

        Raises:
            UserError: there is none of this name; names those there are.
        """
        able = {key: one for key, one in self.learner.named_branches.items() if isinstance(one, EncoderBranch)}
        wanted = name or self.learner.measured
        if wanted not in able:
            raise UserError(f"no branch with an encoder is called {wanted!r}; there are: {', '.join(able) or 'none'}")
        return able[wanted]

    def samples(self, batch_size: int, workers: int = 0) -> Iterator[EvalBatch]:
        """This process's share of the training data, one evaluation view of each sample, in stored order.

        The shares of all processes make up the data, each good sample once; bad ones are counted and left out.

        Args:
            batch_size: samples of a batch, at most.
            workers: loader processes.

        Yields:
            Batches whose ``ids`` are numbers of the samples as in ``Batch.index``.
        """
        evaluation, decode = self.recipe.views.evaluation(), self.recipe.decode.build()
        before = 0
        for shards in self.sources.values():
            count = int(shards.num_samples)
            first, end = (count * part // world_size() for part in (rank(), rank() + 1))
            dataset = PlannedBatches(single(shards, 0, 1, shuffle=False), EvalPipeline(decode, evaluation.build()))
            plans = Plans(start=first, samples=end - first, micro_batch=batch_size, partial=True)
            loader = make_loader(dataset, plans, {"workers": workers})
            try:
                for batch in loader:
                    yield replace(batch, ids=batch.ids + before)
            finally:
                loader.close()
            before += count


class Job(nn.Module):
    """Base of all jobs. What must survive a restart is a parameter or a registered buffer: it is saved with the run.

    A job's Config has ``every``, a :class:`foundation.schedules.Duration`, and ``build(context)``. It runs behind the
    steps of its stage that are multiples of ``every``, on all processes, before a checkpoint of that step is written.
    The random generators of the process are put back afterwards, so that a run does not notice its jobs.

    Attributes:
        doing: one or two words for ``foundation runs list``.
        at_start: it runs before the first step of the stage, too.
        at_end: it runs behind the last step of the stage, too.
        sets: names of the branches that it sets (``Branch.set_by_job``).
    """

    doing: str = "job"
    at_start: bool = False
    at_end: bool = False
    sets: tuple[str, ...] = ()

    @property
    def enough(self) -> bool:
        """Whether the stage may end here, before its length: asked behind each run of the job. What it goes by is the
        same in all processes, and a buffer, so that a run that goes on knows it too."""
        return False

    def run(self, context: JobContext) -> Mapping[str, float]:
        """Do the work; all processes call this at the same step.

        Returns:
            Figures for the metrics; those of process 0 count.
        """
        raise NotImplementedError
