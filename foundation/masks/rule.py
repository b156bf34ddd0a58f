"""What all mask rules share: which views, how tokens are hidden, and from a pattern of hidden tokens to a mask."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from foundation.data.pipeline import Masking
from foundation.errors import UserError
from foundation.ranges import check
from foundation.types import MASKING, TokenMask

SelfRule = TypeVar("SelfRule", bound="Rule")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Base of the ``Config`` of every kind of mask.

    Attributes:
        apart_from: see :class:`foundation.data.pipeline.Masking`; a kind that knows it has a key of that name.
    """

    apart_from: ClassVar[Any] = ()

    view: str = "global"
    """View that gets masks."""
    also: tuple[str, ...] = ()
    """Further views that get masks by the same rule, each drawn by itself."""
    mode: Literal["token", "drop", "input"] = "token"
    """How hidden tokens are hidden: ``token`` puts a mask token in their place (iBOT, SimMIM); ``drop`` leaves them out
    of the encoder (MAE; all rows then have as many); ``input`` overwrites their part of the view itself with zeros or
    another sample (group masked model learning, ASiT)."""
    shared: bool = False
    """All views of a sample have the same mask (ATST-Frame, whose views hear the same seconds)."""

    def __post_init__(self) -> None:
        if len(set(self.views)) != len(self.views):
            raise UserError(f"masking: a view is named twice: {', '.join(self.views)}")
        check(self, "masking")
        if self.mode not in ("token", "drop", "input"):
            raise UserError(f"masking: mode must be 'token', 'drop' or 'input', got {self.mode!r}")

    @property
    def views(self) -> tuple[str, ...]:
        """All views that get masks."""
        return (self.view, *self.also)

    @property
    @abstractmethod
    def mean_share(self) -> float:
        """Expected share of the tokens that losses ask for, over all rows."""

    @property
    def visible_share(self) -> float:
        """Expected share of the tokens that reach the encoder."""
        return 1.0 - self.mean_share if self.mode == "drop" else 1.0

    @abstractmethod
    def build(self, name: str = MASKING, view: str | None = None) -> Masking:
        """The mask maker of one view.

        Args:
            name: of the rule in the recipe; rules of different names draw different masks.
            view: one of :attr:`views`; None: the first.
        """

    def shown(self: SelfRule) -> SelfRule:
        """The rule as a picture shows it: one view, with mask tokens, and as many rows as can be with a mask."""
        return replace(self, also=(), mode="token")


def stream_of(name: str, view: str) -> str:
    """Beginning of the names of the random numbers of a rule and a view."""
    return f"mask.{view}" if name == MASKING else f"mask:{name}.{view}"


def makers(rules: Mapping[str, Rule]) -> dict[tuple[str, str], Masking]:
    """The mask makers of a recipe by (view, rule), each behind those that it stays apart from.

    Raises:
        UserError: see :func:`in_order`.
    """
    return {(view, name): rules[name].build(name, view) for name in in_order(rules) for view in rules[name].views}


def in_order(rules: Mapping[str, Rule]) -> list[str]:
    """Names of rules, each behind those that it stays apart from.

    Raises:
        UserError: a rule stays apart from one that is not there, that has not the same views, or in a circle.
    """
    done: list[str] = []
    for name, rule in rules.items():
        for other in rule.apart_from:
            if other not in rules:
                there = ", ".join(rules)
                raise UserError(f"masks.{name}.apart_from: no mask rule is called {other!r}; the recipe has: {there}")
            if missing := sorted(set(rule.views) - set(rules[other].views)):
                raise UserError(f"masks.{name}.apart_from: rule {other!r} has no masks for the view {missing[0]!r}")
    while len(done) < len(rules):
        free = [name for name in rules if name not in done and set(rules[name].apart_from) <= set(done)]
        if not free:
            circle = ", ".join(name for name in rules if name not in done)
            raise UserError(f"masks: rules stay apart from each other in a circle (apart_from): {circle}")
        done += free
    return done


def token_mask(
    masked: NDArray[np.bool_],
    asked: NDArray[np.bool_] | None = None,
    mode: Literal["token", "drop", "input"] = "token",
    sources: NDArray[np.int64] | None = None,
) -> TokenMask:
    """A mask with its indices and weights.

    Args:
        masked: [R, N] hidden tokens.
        asked: [R, N] those of them that losses ask for; None: all.
        mode: see :class:`foundation.types.TokenMask`.
        sources: see there.

    Raises:
        UserError: mode ``drop`` with rows of different lengths.
    """
    asked = masked if asked is None else asked
    per_row = asked.sum(axis=1)
    weights = np.repeat(1.0 / np.maximum(per_row, 1), per_row).astype(np.float32)
    if mode == "drop" and len(masked) and (np.ptp(masked.sum(axis=1)) or np.ptp(per_row)):
        raise UserError(
            "masking: mode 'drop' needs as many hidden tokens in every row, and this rule hides more in some"
        )
    return TokenMask(
        torch.from_numpy(masked),
        torch.from_numpy(np.flatnonzero(asked)),
        torch.from_numpy(weights),
        torch.from_numpy(np.flatnonzero(~masked)),
        mode,
        None if sources is None else torch.from_numpy(sources),
    )
