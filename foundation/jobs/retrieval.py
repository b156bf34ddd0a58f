"""Retrieval across the views of samples as a job: does the student find what the teacher sees of the same sample?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch

from foundation.branches.base import Branch
from foundation.branches.cached import CachedBranch
from foundation.branches.request import Request
from foundation.data.shards import RawSample, ShardSet, open_shards
from foundation.engine.learner import Learner
from foundation.errors import SampleError, UserError
from foundation.jobs.base import Job, JobContext
from foundation.modalities.shapes import view_shapes
from foundation.parallel.collective import on_first_rank
from foundation.parallel.parallelize import gathered
from foundation.probes.retrieval import Embedded, Recalls, embeddings, recalls, view_batches
from foundation.ranges import Count, Range, Side, check
from foundation.schedules import Duration


@dataclass(frozen=True, kw_only=True)
class Config:
    """R@1, R@5 and R@10 of a pair of views, both ways: those that the first objective with two branches compares."""

    every: Annotated[Duration, Range(0, 1e9, above=True)]
    """Distance between two measurements."""
    shards: tuple[str, ...]
    """Samples to find each other among; best such as are not trained on."""
    limit: Count | None = None
    """At most so many samples, spread evenly over the shards; None: all. More are harder to tell apart."""
    batch_size: Side = 64
    """Samples per forward pass."""

    def __post_init__(self) -> None:
        if not self.shards:
            raise UserError("jobs: retrieval.shards is empty: name shards whose samples shall find each other")
        check(self, "retrieval")

    def build(self, context: JobContext) -> RetrievalJob:
        """The job.

        Raises:
            UserError: no objective compares two branches.
        """
        return RetrievalJob(self, pair_of(context.learner))


class RetrievalJob(Job):
    """See :class:`Config`."""

    doing = "retrieval"
    at_end = True

    def __init__(self, config: Config, pair: tuple[Request, Request]) -> None:
        super().__init__()
        self.config, self.pair = config, pair

    def run(self, context: JobContext) -> Mapping[str, float]:
        """Process 0 measures; the others wait for it.

        Returns:
            ``retrieval/student_rK`` (the student's view finds the teacher's of its sample) and
            ``retrieval/teacher_rK``, in [0, 1].
        """
        branches = context.learner.named_branches
        with gathered(*(branches[request.branch] for request in self.pair)):
            return on_first_rank(lambda: self._measure(context))

    def _measure(self, context: JobContext) -> dict[str, float]:
        config, device = self.config, context.placement.device
        where = (context.recipe, context.learner, self.pair, open_shards(list(config.shards)))
        found = recalls_of(embedded(*where, limit=config.limit, batch_size=config.batch_size, device=device))
        ways = {"student": found.forth, "teacher": found.back}
        return {f"retrieval/{way}_r{k}": value for way, recall in ways.items() for k, value in recall.items()}


def pair_of(learner: Learner) -> tuple[Request, Request]:
    """The student's and the teacher's request of the first objective that compares class tokens of two branches.

    Raises:
        UserError: there is none.
    """
    for objective in learner.objectives.values():
        asked = [r for r in objective.requests if r.token == "cls"]  # type: ignore[union-attr]
        students = [r for r in asked if learner.named_branches[r.branch].trains]
        teachers = [r for r in asked if not learner.named_branches[r.branch].trains]
        if students and teachers:
            return replace(students[0], mask=None), teachers[0]
    raise UserError("retrieval: no objective of this recipe compares the class tokens of two branches")


def said_of(request: Request, branch: Branch) -> str:
    """Whose embedding of what: ``imu.global by student``, or the member that a cached branch reads."""
    if isinstance(branch, CachedBranch):
        return f"{branch.member} in the shards by {request.branch}"
    return f"{request.view} by {request.branch}"


def of_one_view(recipe: Any, learner: Learner, pair: Sequence[Request]) -> bool:
    """Whether both branches of a pair embed what one sensor recorded, as the evaluation shows it."""
    shapes = view_shapes(recipe.views)
    one, two = (shapes[request.view].modality for request in pair)
    return one == two and not any(isinstance(learner.named_branches[request.branch], CachedBranch) for request in pair)


def caution(recipe: Any, learner: Learner, pair: Sequence[Request]) -> str:
    """What to say of a pair that is of one sensor; empty for two sensors."""
    if not of_one_view(recipe, learner, pair):
        return ""
    names = [said_of(request, learner.named_branches[request.branch]) for request in pair]
    return (
        f"{names[0]} and {names[1]} see the same {pair[0].view!r} view of a sample: the figures say how alike two "
        "branches are, not how well two sensors find each other, which a run that compares both says"
    )


def recalls_of(found: Embedded) -> Recalls:
    """R@k of both embeddings of some samples."""
    first, second = found.rows
    return recalls(first, second, found.labels)


def embedded(
    recipe: Any,
    learner: Learner,
    pair: Sequence[Request],
    shards: ShardSet,
    *,
    limit: int | None = None,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    bad: list[SampleError] | None = None,
) -> Embedded:
    """What the branches of a run say of two views of each sample, as their evaluation shows them.

    Args:
        recipe: flat.
        learner: with its branches on ``device``.
        pair: of queries and gallery, both of class tokens.
        shards: opened.
        limit: samples at most, spread evenly.
        batch_size: samples per forward pass.
        device: where the branches are.
        bad: gets what was wrong with each sample that was left out.

    Raises:
        UserError: no sample can be read.
    """
    count = min(limit or shards.num_samples, shards.num_samples)

    def raws() -> Iterator[RawSample]:
        for number in range(count):
            try:
                yield shards.read(*shards.locate(number * shards.num_samples // count))
            except SampleError as error:
                if bad is not None:
                    bad.append(error)

    known = view_shapes(recipe.views)
    shapes = {request.view: known[request.view] for request in pair}
    extras = {name: config.build(name) for name, config in recipe.data.extras.items()}
    batches = view_batches(raws(), recipe.decode.build(), shapes, extras, batch_size, device, bad)
    return embeddings(learner.named_branches, list(pair), batches)
