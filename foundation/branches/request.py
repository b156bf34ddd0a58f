"""Requests: how an objective says which tensors of which branch it wants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Token: TypeAlias = Literal["cls", "patches", "masked", "visible", "registers", "cells"]


@dataclass(frozen=True)
class Request:
    """One tensor of one branch. The learner computes the union of all requests, each once.

    Attributes:
        branch: name of a branch of the recipe, such as ``student`` or ``teacher``.
        view: name of a view of the batch, such as ``global``.
        token: ``cls`` [R, D], ``registers`` [R, registers, D], ``patches`` [R, N, D], ``masked`` [M, D] and ``visible``
            [V, D] (the patch tokens that the rule hides and those that it leaves, in the order of the flattened
            [R * N]), or ``cells`` [R, N, ...]: no features, but the numbers of the view that each token covers, as they
            were before anything was hidden (``cells`` of the tokenizer): what a reconstruction is measured on.
        head: name of a head of the branch whose output [..., K] is wanted, or None for the encoder's features.
        tap: name of a tap of the encoder (``block.3``) or, with a head, of that head (``decoder.block.3``), whose value
            is wanted in the place of the last layer's; None: the last layer, normed.
        mask: mask rule of the recipe under which the branch sees the view; None: it sees all of it.
        rule: mask rule that ``masked`` and ``visible`` mean; None: ``mask``. A teacher that sees a view whole is asked
            for the tokens that are hidden from the student.
    """

    branch: str
    view: str
    token: Token
    head: str | None = None
    tap: str | None = None
    mask: str | None = None
    rule: str | None = None

    @property
    def chosen_by(self) -> tuple[str, str] | None:
        """Key in ``Batch.masks`` of what says which patches ``masked`` and ``visible`` are; None for other tokens."""
        rule = self.rule or self.mask
        return (self.view, rule) if rule is not None and self.token in ("masked", "visible") else None

    def __str__(self) -> str:
        parts = [f"{self.token} of view {self.view!r} by branch {self.branch!r}"]
        parts += [f"behind head {self.head!r}"] if self.head else []
        parts += [f"at tap {self.tap!r}"] if self.tap else []
        parts += [f"under mask {self.mask!r}"] if self.mask else []
        return ", ".join(parts)
