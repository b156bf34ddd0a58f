"""An early exit: a layer of another branch, with heads of its own. It costs no pass: the layer is tapped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from foundation import counter
from foundation.branches.base import Branch, BranchContext, Offer
from foundation.branches.copies import branch_of
from foundation.branches.request import Request
from foundation.errors import UserError
from foundation.plugins import Plugin
from foundation.ranges import Side, check
from foundation.seeded import seeded
from foundation.types import Batch


@dataclass(frozen=True, kw_only=True)
class Config:
    """An exit behind a block."""

    of: str = "student"
    """Branch that it is a layer of."""
    block: Side
    """Blocks that the tokens have passed when they leave: 6 is behind the sixth."""
    heads: dict[str, Annotated[Any, Plugin("foundation.heads.{name}", usual="prototypes")]] | None = None
    """Heads of the exit by name; None: others like the recipe's."""

    def __post_init__(self) -> None:
        check(self, "exit")

    def build(self, context: BranchContext) -> ExitBranch:
        """The exit.

        Raises:
            UserError: no such branch, or it has fewer blocks.
        """
        source = branch_of(context, self.of)
        tap = f"block.{self.block - 1}"
        if tap not in source.offer.taps:
            depth = int(source.encoder.depth)
            raise UserError(f"branches.{context.name}.block is {self.block}: branch {self.of!r} has 1 to {depth}")
        configs = context.heads if self.heads is None else self.heads
        with seeded(int(counter.bits(context.seed, 0, 0, f"branch.{context.name}", 1)[0][0])):
            return ExitBranch(source, self.of, tap, configs)


class ExitBranch(Branch):
    """See :class:`Config`.

    Args:
        source: branch that is left.
        of: its name.
        tap: where.
        configs: of the heads.
    """

    def __init__(self, source: Branch, of: str, tap: str, configs: Mapping[str, Any]) -> None:
        super().__init__()
        width = source.offer.width
        self.of, self.tap, self.width, self.configs = of, tap, width, dict(configs)
        self.trains = source.trains
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.heads = nn.ModuleDict({name: config.build(width) for name, config in configs.items()})

    @property
    def offer(self) -> Offer:
        return Offer(self.width, {name: c for name, c in self.configs.items() if not c.whole})

    def parts(self) -> dict[str, nn.Module]:
        return {"norm": self.norm, **{f"heads.{name}": head for name, head in self.heads.items()}}

    def needs(self, requests: Sequence[Request]) -> tuple[Request, ...]:
        return tuple(self._of(request) for request in requests)

    def _of(self, request: Request) -> Request:
        return replace(request, branch=self.of, head=None, tap=self.tap)

    def forward(
        self, batch: Batch, requests: Iterable[Request], outputs: Mapping[Request, Tensor]
    ) -> dict[Request, Tensor]:
        """Answers by request, each head in one pass."""
        requests = tuple(dict.fromkeys(requests))
        tokens = {request: self.norm(outputs[self._of(request)]) for request in requests}
        answers = {request: value for request, value in tokens.items() if request.head is None}
        for head in dict.fromkeys(r.head for r in requests if r.head is not None):
            some = [r for r in requests if r.head == head]
            rows = [tokens[r].flatten(0, -2) for r in some]
            parts = self.heads[head](torch.cat(rows)).split([len(r) for r in rows])
            answers |= {r: p.unflatten(0, tokens[r].shape[:-1]) for r, p in zip(some, parts, strict=True)}
        return answers
