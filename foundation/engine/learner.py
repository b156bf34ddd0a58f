"""The learner: one step, from a batch to a loss. It knows branches, requests and objectives, and no names of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from foundation.branches.base import Branch
from foundation.errors import UserError
from foundation.objectives.base import Objective, Request
from foundation.schedules import Clock, Schedule
from foundation.types import Batch

STUDENT = "student"


class Monitor(Protocol):
    """Something that watches tensors without taking part in the loss. It asks for them as an objective does."""

    requests: tuple[Request, ...]

    def __call__(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Mapping[str, Tensor]:
        """Figures as device scalars, empty in most steps; must not wait for the device then."""


@dataclass(frozen=True)
class StepResult:
    """Loss of a step and everything worth logging, all still on the device.

    Attributes:
        loss: weighted sum of the objectives' losses, float32.
        parts: unweighted loss by objective.
        metrics: the objectives' and monitors' own figures, ``objective/figure``.
    """

    loss: Tensor
    parts: Mapping[str, Tensor]
    metrics: Mapping[str, Tensor]


class Learner(nn.Module):
    """Student, teachers and objectives.

    Args:
        student: the branch that gradients reach.
        teachers: by branch name; each is called as ``teacher(batch, requests)`` without gradient.
        objectives: by name.
        weights: weight schedule of each objective.
        clock: length of the run, for the weights' schedules.
        monitors: by name.
    """

    def __init__(
        self,
        student: Branch,
        teachers: Mapping[str, nn.Module],
        objectives: Mapping[str, Objective],
        weights: Mapping[str, Schedule],
        clock: Clock,
        monitors: Mapping[str, Monitor] | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.teachers = nn.ModuleDict(dict(teachers))
        self.objectives = nn.ModuleDict(dict(objectives))
        self.weights = dict(weights)
        self.clock = clock
        self.monitors = dict(monitors or {})
        asking = (*objectives.values(), *self.monitors.values())
        self.requests = tuple(dict.fromkeys(request for part in asking for request in part.requests))

    def rests(self, masked: bool) -> bool:
        """Whether some parameter may get no gradient in some step.

        Args:
            masked: whether batches come with masks whose tokens become mask tokens.
        """
        if any(request.token == "cells" for request in self.requests):
            return True  # reconstruction: class token, mask token and last norm may all be out of use
        heads = {request.head for request in self.requests if request.branch == STUDENT}
        return not self.student.encoder.uses_all_parameters(masked) or any(
            name not in heads for name in self.student.heads
        )

    def check(self, views: Sequence[str], masked_views: Sequence[str]) -> None:
        """Refuse requests that no batch can serve, before the first step.

        Args:
            views: names of the views that a batch has.
            masked_views: names of those that come with masks.

        Raises:
            UserError: naming the objective, what it asks for, and what there is.
        """
        branches = (STUDENT, *self.teachers)
        for name, objective in self.objectives.items():
            for request in objective.requests:  # type: ignore[union-attr]
                for what, value, known in (
                    ("branch", request.branch, branches),
                    ("view", request.view, tuple(views)),
                    ("head", request.head, (None, *self.student.heads)),
                ):
                    if value not in known:
                        there = ", ".join(str(k) for k in known if k is not None) or "none"
                        raise UserError(f"objective {name!r} needs the {what} {value!r}; the recipe has: {there}")
                if request.token == "cells" and self.student.encoder.capabilities.cell_shape is None:
                    raise UserError(f"objective {name!r} needs an encoder whose tokenizer can say what a token covers")
                if request.token == "masked" and request.view not in masked_views:
                    raise UserError(f"objective {name!r} needs masked {request.view!r} views: add a masking section")

    def forward(self, batch: Batch, step: int, watched: bool = True) -> StepResult:
        """Loss of one batch.

        Args:
            batch: on the device, its views finished.
            step: optimiser step, from 0.
            watched: whether the step's metrics are logged. Where they are not, those that cost something are left
                out, unless a monitor has figures in this step: they are read together.
        """
        outputs: dict[Request, Tensor] = {}
        for name, teacher in self.teachers.items():
            with torch.no_grad():
                outputs |= teacher(batch, [r for r in self.requests if r.branch == name])
        outputs |= self.student(batch, [r for r in self.requests if r.branch == STUDENT], hide=True)
        parts: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        weighted: list[Tensor] = []
        for name, monitor in self.monitors.items():
            metrics |= {f"{name}/{key}": value for key, value in monitor(outputs, batch, step).items()}
        watched = watched or bool(metrics)
        for name, objective in self.objectives.items():
            weight = self.weights[name].at(step, self.clock)
            objective.watched = watched  # type: ignore[assignment]
            result = objective(outputs, batch, step)
            parts[name] = result.loss.detach()
            metrics |= {f"{name}/{key}": value for key, value in result.metrics.items()}
            weighted.append(weight * result.loss.float())
        return StepResult(torch.stack(weighted).sum(), parts, metrics)
