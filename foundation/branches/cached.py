"""A teacher that was run once: its features are read from the shard, as a member of each sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from foundation.branches.base import Branch, BranchContext, Offer
from foundation.branches.fixed import fixed_heads
from foundation.branches.frozen import digest_of, load_teacher
from foundation.branches.request import Request
from foundation.data.extras.array import Config as ArrayConfig
from foundation.data.shards import ShardError, ShardSet
from foundation.errors import UserError
from foundation.parallel.first_weights import is_plan
from foundation.plugins import Plugin, near
from foundation.printable import printable
from foundation.ranges import Side, check
from foundation.types import Batch

FEATURES = "features"
"""Key of an index's ``about``: by member, which model made its features, and of what."""

_LOOKED_AT = 64  # shards whose headers are read before the first step
_DIGESTED = 1 << 30  # bytes of shards that are compared with the index before the first step: about two seconds


@dataclass(frozen=True, kw_only=True)
class Config:
    """Features that lie beside the samples, as ``foundation extract`` writes them."""

    extra: str
    """Name in ``data.extras``: an array of ``width`` numbers for each sample, or of [views, width]."""
    width: Side
    """Numbers of a feature."""
    weights: str | None = None
    """The model that made them, as for ``frozen``: shards whose index names the weights of another are refused; None:
    any model's."""
    branch: str | None = None
    """Which encoder of a run folder or checkpoint that is; None: the one that it was measured by."""
    sha256: str | None = None
    """In place of ``weights``: their SHA-256, as the index of the shards gives it."""
    heads: dict[str, Annotated[Any, Plugin("foundation.heads.{name}", usual="prototypes")]] = field(
        default_factory=dict
    )
    """Heads by name, drawn at random from the seed and never trained, as of ``frozen``."""

    def __post_init__(self) -> None:
        check(self, "cached")
        if self.weights is not None and self.sha256 is not None:
            raise UserError("cached: give weights or sha256, not both")

    def build(self, context: BranchContext) -> CachedBranch:
        """The branch.

        Raises:
            UserError: the recipe declares no such extra (names those there are), or one of another width; or
                ``weights`` cannot be read.
        """
        if self.extra not in context.extras:
            there = ", ".join(context.extras) or "none"
            raise UserError(
                f"branches.{context.name}.extra: data.extras has no {self.extra!r}{near(self.extra, context.extras)}; "
                f"there are: {there}"
            )
        self._check_width(context)
        wanted = self.sha256
        if self.weights is not None:
            planned = is_plan()  # by a dry run, which fetches nothing
            with torch.device("cpu"):
                digest = digest_of(load_teacher(self.weights, self.branch, fetch=not planned))
            wanted = digest.hex() if any(digest) else None  # not known of published weights that are not fetched
        return CachedBranch(
            self, context.name, context.extras[self.extra].member, wanted, fixed_heads(self.heads, self.width, context)
        )

    def _check_width(self, context: BranchContext) -> None:
        extra = context.extras[self.extra]
        if not isinstance(extra, ArrayConfig):
            return  # of another kind, whose shapes are not known here
        shape = list(extra.shape)
        if len(shape) > 2 or shape[-1] != self.width:
            raise UserError(
                f"branches.{context.name}.width is {self.width}, and data.extras.{self.extra}.shape is {shape}: a "
                f"feature of so many numbers has the shape [{self.width}], of several views [views, {self.width}]"
            )


class CachedBranch(Branch):
    """Gives each view of a sample the sample's feature as its class token; with a feature for each view, that one.

    Args:
        config: of the recipe.
        name: of the branch.
        member: of the samples.
        wanted: SHA-256 of the weights that must have made it; None: any.
        heads: by name.
    """

    def __init__(self, config: Config, name: str, member: str, wanted: str | None, heads: nn.ModuleDict) -> None:
        super().__init__()
        self.config, self.name, self.member, self.wanted, self.heads = config, name, member, wanted, heads

    @property
    def offer(self) -> Offer:
        return Offer(self.config.width, self.config.heads)

    def refusal(self, request: Request) -> str | None:
        return None if request.token == "cls" else f"has class tokens only, and not {request.token}"

    def train(self, mode: bool = True) -> CachedBranch:
        """Stays in evaluation mode."""
        super().train(False)
        return self

    def check_shards(self, sources: Mapping[str, ShardSet]) -> None:
        """See :meth:`foundation.branches.base.Branch.check_shards`: every sample has the member (of remote shards the
        index is looked at only, of very many a part), the model that the recipe names has made it, and the shards are
        those that the index speaks of."""
        for shards in sources.values():
            for folder, about in shards.about.items():
                self._check_maker(folder, about)
            numbers = np.unique(np.linspace(0, len(shards.shards) - 1, _LOOKED_AT).astype(np.int64))
            for number in numbers.tolist():
                if "://" not in shards.shards[number] and not shards.shards[number].startswith("pipe:"):
                    self._check_members(shards, number)
            shards.check_digests(_DIGESTED)

    def _check_maker(self, folder: str, about: Mapping[str, Any]) -> None:
        known = about.get(FEATURES)
        made = known.get(self.member) if isinstance(known, Mapping) else None
        if self.wanted is None:
            return
        if not isinstance(made, Mapping):
            raise UserError(
                f"the index of {folder} does not say which model made {self.member}: write it with 'foundation extract "
                "MODEL SHARDS OUT', or leave weights and sha256 out"
            )
        if made.get("sha256") != self.wanted:
            raise UserError(
                f"{self.member} in {folder} was made by {printable(str(made.get('model')))} (sha256 "
                f"{printable(str(made.get('sha256')))}), and the recipe wants the weights {self.wanted}: extract the "
                "features of these, or name the model that made those there"
            )

    def _check_members(self, shards: ShardSet, number: int) -> None:
        try:
            table = shards.table(number)
        except ShardError:
            return  # a damaged shard is said of, and counted, where its samples are read
        for key, members in zip(table.keys, table.extensions, strict=True):
            if self.member not in members:
                raise UserError(
                    f"{Path(shards.shards[number])}: sample {key} has no member {self.member} (members: "
                    f"{', '.join(members)}): write it with 'foundation extract MODEL SHARDS OUT --member {self.member}'"
                )

    def forward(
        self, batch: Batch, requests: Iterable[Request], outputs: Mapping[Request, Tensor]
    ) -> dict[Request, Tensor]:
        """Class tokens [R, width], view-major.

        Raises:
            UserError: another token than ``cls`` is asked for, or the features have another width or number.
        """
        answers = {}
        for request in requests:
            feature = self._rows(batch.extras[self.config.extra], batch.views[request.view].count, request.view)
            answers[request] = feature if request.head is None else self.heads[request.head](feature)
        return answers

    def _rows(self, feature: Any, count: int, view: str) -> Tensor:
        """[count * B, width] of an extra [B, width] or [B, count, width]."""
        extra, width = self.config.extra, self.config.width
        if not isinstance(feature, Tensor) or feature.ndim not in (2, 3) or feature.shape[-1] != width:
            raise UserError(f"branches.{self.name}: the extra {extra!r} is no array of {width} numbers for each sample")
        if feature.ndim == 2:
            return feature.repeat(count, 1)
        if feature.shape[1] != count:
            raise UserError(
                f"branches.{self.name}: the extra {extra!r} has features of {feature.shape[1]} views for each sample, "
                f"and a sample has {count} views {view!r}: set their count to it"
            )
        return feature.transpose(0, 1).flatten(0, 1)
