"""Several branches as one teacher: the mean of what they say (MEAL V2, Shen and Savvides 2021)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from foundation.branches.base import Branch, BranchContext, Offer
from foundation.branches.request import Request
from foundation.errors import UserError
from foundation.ranges import Length
from foundation.types import Batch


@dataclass(frozen=True, kw_only=True)
class Config:
    """The mean of several branches, none of which is trained."""

    of: Annotated[tuple[str, ...], Length(2, 64)]
    """The branches."""
    mean: Literal["scores", "probabilities"] = "probabilities"
    """Behind a head with prototypes: of the scores, or of their softmax (MEAL V2; what is given on are its logarithms).
    Everything else is averaged as it is."""

    def __post_init__(self) -> None:
        if self.mean not in ("scores", "probabilities"):
            raise UserError(f"ensemble: mean must be 'scores' or 'probabilities', got {self.mean!r}")

    def build(self, context: BranchContext) -> EnsembleBranch:
        """The ensemble.

        Raises:
            UserError: a branch that is not there, that is trained, or of another width.
        """
        for name in self.of:
            if name not in context.branches:
                there = ", ".join(context.branches)
                raise UserError(f"branches.{context.name}.of: the branch {name!r} is not there; there are: {there}")
            if context.branches[name].trains:
                raise UserError(f"branches.{context.name}.of: {name!r} is trained; an ensemble is a teacher")
        offers = [context.branches[name].offer for name in self.of]
        if len({offer.width for offer in offers}) > 1:
            widths = ", ".join(f"{name} {offer.width}" for name, offer in zip(self.of, offers, strict=True))
            raise UserError(f"branches.{context.name}: a mean needs features of one width, these have: {widths}")
        shared = {
            name: config
            for name, config in offers[0].heads.items()
            if all(name in o.heads and o.heads[name].outputs == config.outputs for o in offers)
        }
        return EnsembleBranch(self, Offer(offers[0].width, shared))


class EnsembleBranch(Branch):
    """See :class:`Config`."""

    def __init__(self, config: Config, offer: Offer) -> None:
        super().__init__()
        self.config, self._offer = config, offer

    @property
    def offer(self) -> Offer:
        return self._offer

    def needs(self, requests: Sequence[Request]) -> tuple[Request, ...]:
        return tuple(replace(request, branch=name) for request in requests for name in self.config.of)

    def forward(
        self, batch: Batch, requests: Iterable[Request], outputs: Mapping[Request, Tensor]
    ) -> dict[Request, Tensor]:
        answers = {}
        for request in requests:
            said = torch.stack([outputs[replace(request, branch=name)] for name in self.config.of])
            prototypes = request.head is not None and self._offer.heads[request.head].prototypes
            if prototypes and self.config.mean == "probabilities":
                mean = torch.logsumexp(torch.log_softmax(said.float(), dim=-1), dim=0) - math.log(len(said))
                answers[request] = mean.to(said.dtype)
            else:
                answers[request] = said.mean(dim=0)
        return answers
