"""Validation: what heads say of the samples that were kept back, and when that no longer gets better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from foundation.data.extras.target import Config as TargetConfig
from foundation.errors import UserError
from foundation.jobs.base import Job, JobContext
from foundation.objectives.supervised import Tokens
from foundation.parallel.collective import gather_to_first, on_first_rank
from foundation.parallel.parallelize import gathered
from foundation.plugins import near
from foundation.probes.supervised import Answers, answers, kept_back, scores
from foundation.ranges import Count, Range, Workers, check
from foundation.schedules import Duration

_LEAST = 1e-3
"""Share of the loss by which a lower one must be lower to count."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Score a branch on the training samples that its target keeps back (``data.extras``, kind ``target``), copy it to
    a branch ``best`` where it is better than ever before, and end the stage when it has not been for long."""

    every: Annotated[Duration, Range(0, 1e9, above=True)]
    """Distance between two validations; one more is made at the end of the stage."""
    branch: str = "student"
    """Branch that is scored."""
    best: str = "best"
    """Branch of the kind ``best`` that is set."""
    target: str = "target"
    """Name in ``data.extras`` of the label."""
    tokens: Tokens = "cls"
    """What stands for a sample, as of the objective ``supervised``."""
    patience: Count | None = None
    """Validations without a better one after which the stage ends; None: it goes on to its length."""
    batch_size: Count = 256
    """Samples that the encoder sees at once."""
    workers: Workers = 0
    """Loader processes."""

    def __post_init__(self) -> None:
        check(self, "validate")

    def build(self, context: JobContext) -> ValidateJob:
        """The job.

        Raises:
            UserError: no such branch, no such target, or nothing is kept back.
        """
        context.branch(self.branch)
        able = [name for name, branch in context.learner.named_branches.items() if branch.set_by_job]
        if self.best not in able:
            there = ", ".join(able) or f"none; make one by {{name: best, of: {self.branch}}}"
            raise UserError(f"{self.best!r} is no branch that a job sets{near(self.best, able)}; there are: {there}")
        targets = {name: one for name, one in context.recipe.data.extras.items() if isinstance(one, TargetConfig)}
        if self.target not in targets:
            raise UserError(f"data.extras has no target {self.target!r}; there are: {', '.join(targets) or 'none'}")
        if self.patience is not None and not targets[self.target].kept_back:
            raise UserError(f"patience needs samples to go by: set data.extras.{self.target}.kept_back above 0")
        return ValidateJob(self, targets[self.target])


class ValidateJob(Job):
    """See :class:`Config`.

    Attributes:
        top: [2] float64, headline and loss of the best so far.
        since: [] int64, validations since then.
        step: [] int64, of the best.
    """

    doing = "validation"
    at_end = True
    top: Tensor
    since: Tensor
    step: Tensor

    def __init__(self, config: Config, target: TargetConfig) -> None:
        super().__init__()
        self.config, self.target, self.sets = config, target, (config.best,)
        self.register_buffer("top", torch.tensor([-torch.inf, torch.inf], dtype=torch.float64))
        self.register_buffer("since", torch.zeros((), dtype=torch.int64))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @property
    def enough(self) -> bool:
        """Whether it has not got better for long."""
        return self.config.patience is not None and int(self.since) >= self.config.patience

    def run(self, context: JobContext) -> Mapping[str, float]:
        """Every process looks at its share; process 0 scores those of all.

        Returns:
            ``validation/...``, the scores; ``validation/best_step``.
        """
        branches = context.learner.named_branches
        if not self.target.kept_back:  # nothing to choose by: the last is the best
            branches[self.config.best].refresh(branches)
            return {}
        target = self.target.build(self.config.target)
        parts = [self._answers(context, name) for name in context.sources]
        found = gather_to_first(_tensors(parts))

        def score() -> dict[str, float]:
            said, right = (torch.cat([part[name] for part in found]) for name in ("answers", "targets"))
            whole = Answers(said, right, keys=())
            one = scores(whole, target)
            return {**one.figures, "headline": one.value}

        figures = dict(on_first_rank(score))
        headline, loss = figures.pop("headline"), figures["loss"]
        if self._is_better(headline, loss):
            branches[self.config.best].refresh(branches)
            known = headline if math.isfinite(headline) else -math.inf
            self.top.copy_(torch.tensor([known, loss], dtype=torch.float64))
            self.step.fill_(context.step)
            self.since.zero_()
        else:
            self.since += 1
        return {**{f"validation/{k}": v for k, v in figures.items()}, "validation/best_step": float(self.step)}

    def _is_better(self, headline: float, loss: float) -> bool:
        """By the headline; of equal ones, or where few samples leave none (R2 of one number), by a loss that is lower
        by more than rounding makes it."""
        best, lowest = self.top.tolist()
        if math.isfinite(headline) and headline != best:
            return headline > best
        if math.isinf(lowest):
            return math.isfinite(loss)
        return loss < lowest - _LEAST * abs(lowest)

    def _answers(self, context: JobContext, source: str) -> Answers:
        target, recipe = self.target.build(self.config.target), context.recipe
        branch = context.branch(self.config.branch)
        with gathered(branch.encoder):
            return answers(
                branch, kept_back(context.sources[source], target), decode=recipe.decode.build(),
                evaluation=recipe.views.evaluation(), target=target, tokens=self.config.tokens,
                batch_size=self.config.batch_size, workers=self.config.workers, device=context.placement.device,
                autocast=context.placement.autocast is not None, shared=True,
            )  # fmt: skip


def _tensors(parts: list[Answers]) -> dict[str, Tensor]:
    return {name: torch.cat([vars(part)[name] for part in parts]) for name in ("answers", "targets")}
