"""Branches that start as another one: finding it, and copies that stand still."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from foundation.branches.base import Branch, BranchContext, EncoderBranch
from foundation.errors import UserError
from foundation.plugins import near


def branch_of(context: BranchContext, name: str, among: Mapping[str, Branch] | None = None) -> EncoderBranch:
    """A branch with an encoder that this one is made of.

    Args:
        context: of the branch that is built.
        name: of the other one.
        among: where to look; None: the branches built so far.

    Raises:
        UserError: there is no such branch, or it has no encoder of its own; names those there are.
    """
    branches = context.branches if among is None else among
    found = branches.get(name)
    if not isinstance(found, EncoderBranch):
        able = [other for other, branch in branches.items() if isinstance(branch, EncoderBranch)]
        wrong = "has no encoder of its own" if name in branches else "is not there"
        there = ", ".join(able) or "none"
        raise UserError(
            f"branches.{context.name}: the branch {name!r} {wrong}{near(name, able)}; it can be one of: {there}"
        )
    return found


class StillBranch(EncoderBranch):
    """A copy of a branch, in evaluation mode and without gradients, that nothing moves."""

    def __init__(self, source: EncoderBranch) -> None:
        super().__init__(copy.deepcopy(source.encoder), copy.deepcopy(dict(source.heads.items())), source.configs)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> StillBranch:
        """Stays in evaluation mode."""
        super().train(False)
        return self
