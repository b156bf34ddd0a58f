"""A teacher that was run once: its features are read from the shard, as a member of each sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from foundation.branches.base import Branch, BranchContext, Offer
from foundation.branches.request import Request
from foundation.errors import UserError
from foundation.plugins import near
from foundation.ranges import Side, check
from foundation.types import Batch


@dataclass(frozen=True, kw_only=True)
class Config:
    """Features that lie beside the samples."""

    extra: str
    """Name in ``data.extras``: an array of ``width`` numbers, one for each sample."""
    width: Side
    """Numbers of a feature."""

    def __post_init__(self) -> None:
        check(self, "cached")

    def build(self, context: BranchContext) -> CachedBranch:
        """The branch.

        Raises:
            UserError: the recipe declares no such extra; names those there are.
        """
        if self.extra not in context.extras:
            there = ", ".join(context.extras) or "none"
            raise UserError(
                f"branches.{context.name}.extra: data.extras has no {self.extra!r}{near(self.extra, context.extras)}; "
                f"there are: {there}"
            )
        return CachedBranch(self, context.name)


class CachedBranch(Branch):
    """Gives each view of a sample the sample's feature as its class token."""

    def __init__(self, config: Config, name: str) -> None:
        super().__init__()
        self.config, self.name = config, name

    @property
    def offer(self) -> Offer:
        return Offer(self.config.width, {})

    def refusal(self, request: Request) -> str | None:
        return None if request.token == "cls" else f"has class tokens only, and not {request.token}"

    def forward(
        self, batch: Batch, requests: Iterable[Request], outputs: Mapping[Request, Tensor]
    ) -> dict[Request, Tensor]:
        """Class tokens [R, width], view-major.

        Raises:
            UserError: another token than ``cls`` is asked for, or the feature has another width.
        """
        feature = batch.extras[self.config.extra]
        if not isinstance(feature, Tensor) or feature.ndim != 2 or feature.shape[1] != self.config.width:
            raise UserError(
                f"branches.{self.name}: the extra {self.config.extra!r} is no array of {self.config.width} numbers for "
                "each sample"
            )
        return {request: feature.repeat(batch.views[request.view].count, 1) for request in requests}
