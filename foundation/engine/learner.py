"""The learner: one step, from a batch to a loss. It knows branches, requests and objectives, and no names of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast, get_args

import torch
from torch import Tensor, nn

from foundation.branches.base import Branch, EncoderBranch
from foundation.branches.request import Request, Token
from foundation.encoders.protocol import ATTENTION
from foundation.objectives.base import Objective
from foundation.parallel.parallelize import Part
from foundation.plugins import near
from foundation.schedules import Clock, Schedule
from foundation.types import Batch


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
        items: of how many items a figure is the mean, see :class:`foundation.objectives.base.Result`.
    """

    loss: Tensor
    parts: Mapping[str, Tensor]
    metrics: Mapping[str, Tensor]
    items: Mapping[str, int] = field(default_factory=dict)


class Learner(nn.Module):
    """Branches and objectives.

    Args:
        branches: by name, each after those that it follows or is made of.
        objectives: by name.
        weights: weight schedule of each objective.
        clock: length of the stage, for the weights' schedules.
        measured: branch that probes, exports and reports ask.
        monitors: by name.
        stores: values by sample, by name.

    Attributes:
        requests: what objectives and monitors ask for, and what their answers are made of.
    """

    def __init__(
        self,
        branches: Mapping[str, Branch],
        objectives: Mapping[str, Objective],
        weights: Mapping[str, Schedule],
        clock: Clock,
        measured: str,
        monitors: Mapping[str, Monitor] | None = None,
        stores: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(dict(branches))
        self.objectives = nn.ModuleDict(dict(objectives))
        self.stores = nn.ModuleDict(dict(stores or {}))
        self.weights = dict(weights)
        self.clock, self.measured = clock, measured
        self.monitors = dict(monitors or {})
        asking = (*objectives.values(), *self.monitors.values())
        requests = dict.fromkeys(request for part in asking for request in part.requests)
        for name, branch in reversed([*branches.items()]):
            requests |= dict.fromkeys(branch.needs([request for request in requests if request.branch == name]))
        self.requests = tuple(requests)
        # Teachers first, so that what they compute on the way is forgotten before the student keeps its own.
        order = [name for name in branches if not branches[name].trains]
        self._order = (*order, *(name for name in branches if branches[name].trains))
        self._order = tuple(_after_needs(self._order, branches, self.requests))

    @property
    def named_branches(self) -> Mapping[str, Branch]:
        """Branches by name."""
        return cast("Mapping[str, Branch]", self.branches)

    def branch(self, name: str | None = None) -> EncoderBranch:
        """A branch that has an encoder; None: the measured one."""
        found = self.named_branches[name or self.measured]
        assert isinstance(found, EncoderBranch)
        return found

    @property
    def parts(self) -> list[Part]:
        """All modules with parameters that are called as wholes: encoders, heads, objectives that learn."""
        sliced = {branch.slices for branch in self.named_branches.values()}
        found = [
            Part(f"{name}.{key}", module, branch.trains, name in sliced)
            for name, branch in self.named_branches.items()
            for key, module in branch.parts().items()
        ]
        return found + [Part(f"objectives.{name}", objective, wide=True) for name, objective in self.objectives.items()]

    @property
    def exports(self) -> list[str]:
        """Branches whose encoders are worth keeping by themselves: trained ones and averages."""
        return [name for name, branch in self.named_branches.items() if branch.exports]

    @property
    def may_leave_parameters_out(self) -> bool:
        """Whether some trained parameter may get no gradient in some step."""
        if any(request.token == "cells" for request in self.requests):
            return True  # reconstruction: class token, mask token and last norm may all be out of use
        for name, branch in self.named_branches.items():
            if not branch.trains or not any(True for _ in branch.parameters()):
                continue
            if not isinstance(branch, EncoderBranch):
                return True
            asked = [request for request in self.requests if request.branch == name]
            heads = {request.head for request in asked}
            if any(name not in heads for name in branch.heads):
                return True
            if any(request.tap is not None for request in asked):
                return True  # what lies behind the tapped layer, such as the last norm, may be read by nothing
            masked = any(request.mask is not None for request in asked)
            if not branch.encoder.uses_all_parameters(masked):
                return True
        return False

    def check(
        self,
        views: Sequence[str],
        masks: Mapping[str, Sequence[str]],
        modes: Mapping[str, str],
        unbuilt: Collection[str] = (),
    ) -> list[tuple[str, str]]:
        """Requests that no batch can serve.

        Args:
            views: names of the views that a batch has.
            masks: views of each mask rule.
            modes: how each mask rule hides tokens.
            unbuilt: branches of which something is said already.

        Returns:
            Name of the objective, and what it asks for and what there is, of each.
        """
        problems: list[tuple[str, str]] = []
        for name, objective in self.objectives.items():
            for request in cast(Objective, objective).requests:
                if request.branch in unbuilt:
                    continue
                text = self._unserved(request, views, masks) or self._impossible(request, modes)
                if text is not None and (name, text) not in problems:
                    problems.append((name, text))
        return problems

    def _unserved(self, request: Request, views: Sequence[str], masks: Mapping[str, Sequence[str]]) -> str | None:
        if request.branch not in self.branches:
            return f"needs the branch {_missing(request.branch, list(self.branches))}"
        if request.token not in get_args(Token):
            return f"needs the token {_missing(request.token, get_args(Token))}"
        if request.view not in views:
            return f"needs the view {_missing(request.view, views)}"
        offer = self.named_branches[request.branch].offer
        if request.head is not None and request.head not in offer.heads:
            return f"needs the head {_missing(request.head, list(offer.heads))}"
        if request.tap is not None and request.tap not in offer.taps:
            return f"needs the tap {_missing(request.tap, offer.taps)}"
        for rule in (request.mask, request.rule):
            if rule is not None and request.view not in masks.get(rule, ()):
                there = [known for known, hidden in masks.items() if request.view in hidden]
                return f"needs a mask rule for view {request.view!r}: {_missing(rule, there)}"
        if request.token in ("masked", "visible") and request.chosen_by is None:
            return f"needs masked {request.view!r} views: add a masking section"
        if request.token == "cells" and (offer.encoder is None or offer.encoder.capabilities.cell_shape is None):
            return "needs an encoder whose tokenizer can say what a token covers"
        refusal = self.named_branches[request.branch].refusal(request)
        return None if refusal is None else f"needs the branch {request.branch!r}, which {refusal}"

    def _impossible(self, request: Request, modes: Mapping[str, str]) -> str | None:
        """What parts that are all there cannot do together."""
        heads = self.named_branches[request.branch].offer.heads
        if request.head is not None and heads[request.head].whole and request.token in ("cls", "registers"):
            return f"needs {request.token} behind head {request.head!r}, which takes the patch tokens of whole rows"
        inner = request.tap is not None and request.head is None and not request.tap.startswith(ATTENTION)
        if not inner or request.mask is None or modes.get(request.mask) != "drop":
            return None
        if request.token in ("cls", "registers") or (request.token, request.chosen_by) == (
            "visible",
            (request.view, request.mask),
        ):
            return None
        return (
            f"needs {request.token} at tap {request.tap!r} under mask rule {request.mask!r}, which leaves tokens out: "
            "inside the encoder there are the visible ones alone"
        )

    def forward(self, batch: Batch, step: int, watched: bool = True) -> StepResult:
        """Loss of one batch.

        Args:
            batch: on the device, its views finished.
            step: optimiser step, from 0.
            watched: whether the step's metrics are logged. Where they are not, those that cost something are left
                out, unless a monitor has figures in this step: they are read together.
        """
        outputs: dict[Request, Tensor] = {}
        for name in self._order:
            branch = self.named_branches[name]
            requests = [request for request in self.requests if request.branch == name]
            with torch.set_grad_enabled(branch.trains and torch.is_grad_enabled()):
                outputs |= branch(batch, requests, outputs)
        parts: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        items: dict[str, int] = {}
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
            items |= {f"{name}/{key}": count for key, count in result.items.items()}
            weighted.append(weight * result.loss.float())
        return StepResult(torch.stack(weighted).sum(), parts, metrics, items)

    def update(self, step: int, applied: Tensor | None = None) -> dict[str, float]:
        """Let branches and objectives follow after optimiser step ``step`` (from 0).

        Args:
            step: which.
            applied: see :meth:`foundation.branches.base.Branch.update`.

        Returns:
            Figures for the log, ``BRANCH_FIGURE``.
        """
        figures: dict[str, float] = {}
        for name, branch in self.named_branches.items():
            own = branch.update(self.named_branches, step, applied)
            figures |= {f"{name}_{key}": value for key, value in own.items()}
        for objective in self.objectives.values():
            cast(Objective, objective).update()
        return figures


def _missing(name: str, there: Sequence[str]) -> str:
    kinds = there if len(there) < 20 else [*there[:18], "..."]
    return f"{name!r}{near(name, there)}; the recipe has: {', '.join(kinds) or 'none'}"


def _after_needs(names: Sequence[str], branches: Mapping[str, Branch], requests: Sequence[Request]) -> list[str]:
    """Branches in this order, but each behind those that its answers are made of."""
    done: list[str] = []

    def visit(name: str) -> None:
        if name in done:
            return
        for needed in branches[name].needs([request for request in requests if request.branch == name]):
            visit(needed.branch)
        done.append(name)

    for name in names:
        visit(name)
    return done
