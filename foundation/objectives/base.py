"""What every objective is: a loss that declares which tensors it needs and owns its state, never a forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from foundation.branches.base import Offer
from foundation.branches.request import Request
from foundation.errors import UserError
from foundation.objectives.store import Stores
from foundation.plugins import near
from foundation.schedules import Clock
from foundation.types import MASKING, Batch, ViewShape


@dataclass(frozen=True)
class Result:
    """Loss of one objective and what a person wants to watch.

    Attributes:
        loss: scalar, before the objective's weight.
        metrics: detached scalars by name; they stay on the device until the trainer logs.
        items: of how many items a metric is the mean, by name, as the host knows it (masked tokens); the micro-batches
            of a step are averaged by it. Metrics without an entry are means of as many items in each.
    """

    loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    items: Mapping[str, int] = field(default_factory=dict)


class UnbuiltBranchError(UserError):
    """A branch of the recipe that could not be built, of which something is said already."""


@dataclass(frozen=True)
class ObjectiveContext:
    """What an objective may know when it is built.

    Attributes:
        clock: length of the stage, for schedules.
        offers: what each branch of the recipe can be asked for, by name.
        masks: views of each mask rule, by the rule's name.
        modes: how each mask rule hides tokens: ``token``, ``drop`` or ``input``.
        views: shapes by name.
        patches: patch tokens that a branch makes of a view, by branch and view, where they are known.
        grids: those along each axis, likewise, where they lie in a grid.
        stores: stores of the run; an objective may open one (see :class:`Stores`).
        targets: target transforms by what they are made of, shared by the objectives of a run.
        unbuilt: branches of the recipe that could not be built.
    """

    clock: Clock
    offers: Mapping[str, Offer]
    masks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    modes: Mapping[str, str] = field(default_factory=dict)
    views: Mapping[str, ViewShape] = field(default_factory=dict)
    patches: Mapping[tuple[str, str], int] = field(default_factory=dict)
    grids: Mapping[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)
    stores: Stores = field(default_factory=Stores)
    targets: dict[Any, nn.Module] = field(default_factory=dict)
    unbuilt: frozenset[str] = frozenset()

    def offer(self, branch: str) -> Offer:
        """What a branch can be asked for.

        Raises:
            UserError: there is no such branch; names those there are.
        """
        if branch in self.unbuilt:
            raise UnbuiltBranchError(f"the branch {branch!r} could not be built")
        if branch not in self.offers:
            there = ", ".join(self.offers)
            raise UserError(f"there is no branch {branch!r}{near(branch, self.offers)}; the recipe's are: {there}")
        return self.offers[branch]

    def head(self, branch: str, name: str) -> Any:
        """Config of a head of a branch.

        Raises:
            UserError: there is no such branch or head; names those there are.
        """
        heads = self.offer(branch).heads
        if name not in heads:
            there = ", ".join(heads) or "none"
            raise UserError(f"no head called {name!r}{near(name, heads)}; the heads of branch {branch!r} are: {there}")
        return heads[name]

    def width(self, branch: str) -> int:
        """Numbers of a feature of a branch.

        Raises:
            UserError: there is no such branch, or they are more and fewer from step to step.
        """
        offer = self.offer(branch)
        if offer.varies:
            there = ", ".join(offer.heads) or "none"
            raise UserError(
                f"features of branch {branch!r} have another width from step to step: ask for what a head makes of "
                f"them; its heads are: {there}"
            )
        return offer.width

    def outputs(self, branch: str, head: str | None) -> int:
        """Numbers of a feature of a branch, or of what its head makes of one."""
        return self.width(branch) if head is None else int(self.head(branch, head).outputs)

    def prototypes(self, branch: str, head: str) -> int:
        """Prototypes of a head.

        Raises:
            UserError: there is no such head, or it has none.
        """
        count = self.head(branch, head).prototypes
        if count is None:
            raise UserError(f"head {head!r} has no prototypes: give heads.{head}.prototypes a number")
        return int(count)

    def mask(self, rule: str | None, view: str) -> str | None:
        """Rule under which a view is seen: None where this one does not hide any of it.

        Raises:
            UserError: there is no such rule; names those there are.
        """
        if rule is None or (rule == MASKING and rule not in self.masks):
            return None
        if rule not in self.masks:
            there = ", ".join(self.masks) or "none"
            raise UserError(f"no mask rule called {rule!r}{near(rule, self.masks)}; the recipe's are: {there}")
        return rule if view in self.masks[rule] else None


class Objective(nn.Module):
    """Base of all objectives.

    A subclass fills ``requests`` and implements ``forward``. State that must survive a restart (centres, queues) is a
    registered buffer. Sizes that no recipe key gives, such as ``cell_shape`` of the encoder's tokenizer, come from the
    context that its Config's ``build`` gets.

    Attributes:
        requests: tensors it needs.
        plateau: cross-entropy of an output that says nothing, ``ln K`` for K prototypes, for the collapse detection;
            an objective that gives it also gives the metrics ``entropy`` (of its targets, nats), ``kl`` and, where it
            has them, ``prototypes`` (share in use). None where there is no such number.
        watched: whether somebody looks at the metrics of the next step; the learner says so before each. Where False,
            metrics that cost something may be left out.
    """

    requests: tuple[Request, ...] = ()
    plateau: float | None = None
    watched: bool = True

    def forward(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        """Loss of this step.

        Args:
            outputs: the tensors asked for, in whatever precision autocast made them; losses compute in float32.
            batch: the batch they came from (masks, views' counts and geometry).
            step: optimiser step, counted from 0, for schedules.
        """
        raise NotImplementedError

    @torch.no_grad()
    def update(self) -> None:
        """Called after each optimiser step: what an objective that learns has to put right in its own parameters.
        Those may lie in shards; whole rows do (``foundation/parallel/shards.py``)."""
