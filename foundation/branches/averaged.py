"""A teacher without the artefacts of places: the mean over shifted and mirrored copies of what it sees (PH-Reg).

Chen et al. 2025, "Vision Transformers with Self-Distilled Registers". What a model says of a place in one copy it says
of another place in the next; artefacts stay where they are in the grid, and the mean loses them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from foundation import counter
from foundation.branches.base import Branch, BranchContext, EncoderBranch, Offer, chosen
from foundation.branches.request import Request
from foundation.branches.shifted import CANDIDATES, Copy, limits, shifts
from foundation.encoders.protocol import ATTENTION
from foundation.errors import UserError
from foundation.host_arrays import to_device
from foundation.plugins import near
from foundation.ranges import Length, Number, Range, Share, check
from foundation.types import Batch, View, ViewShape


@dataclass(frozen=True, kw_only=True)
class Config:
    """Another branch, asked about several shifted and mirrored copies of each view; what it says of a cell is averaged
    over the copies that show the cell."""

    of: str
    """Branch that is asked; none that is trained."""
    copies: Annotated[int, Range(2, 256)] = 10
    """Copies of a view; the first is the view itself."""
    shift: Annotated[tuple[Share, ...], Length(1, 2)] = (0.15,)
    """Largest shift as a share of the grid, in whole cells; two numbers: along its rows and its columns (spectrograms:
    ``[0, 0.15]`` moves along time alone)."""
    flip: Share = 0.5
    """Probability that a copy is mirrored left to right (0 for what has a direction, such as time)."""
    fill: Annotated[tuple[Number, ...], Length(1, 64)] = (0.0,)
    """Value of what a shift vacates, in the numbers that the encoder is fed with (0: the mean of its data); one for all
    channels or one for each. White under ImageNet statistics, as PH-Reg has it, is ``[2.249, 2.429, 2.64]``."""
    at_once: Annotated[int, Range(1, 256)] = 1
    """Copies in one pass of the encoder: more need more memory and give the same."""

    def __post_init__(self) -> None:
        check(self, "averaged")

    def build(self, context: BranchContext) -> AveragedBranch:
        """The branch.

        Raises:
            UserError: a branch that is not there, that is trained, or that encodes no views.
        """
        key, there = f"branches.{context.name}.of", [*context.branches]
        if self.of not in there:
            names = ", ".join(there)
            raise UserError(f"{key}: the branch {self.of!r} is not there{near(self.of, there)}; there are: {names}")
        source = context.branches[self.of]
        if source.trains:
            raise UserError(f"{key}: {self.of!r} is trained; the mean over copies of views is a teacher")
        if source.encoding is None:
            raise UserError(
                f"{key}: {self.of!r} encodes no views itself, so that there is nothing to show copies to: name a "
                "branch with an encoder, such as one that is frozen, ema or random"
            )
        return AveragedBranch(self, source, source.encoding, context)


class AveragedBranch(Branch):
    """See :class:`Config`.

    Patch tokens are put back to their cells and averaged over the copies that show them, in float32; class and register
    tokens are the mean over all copies. The copies of a sample follow from the seed, the branch's name and the sample's
    place in the stream alone.

    Args:
        config: of it.
        source: branch that is asked.
        model: its encoder with heads.
        context: seed, name and views.
    """

    fill: Tensor

    def __init__(self, config: Config, source: Branch, model: EncoderBranch, context: BranchContext) -> None:
        super().__init__()
        self.config, self.name, self.seed = config, context.name, context.seed
        self.register_buffer("fill", torch.tensor(config.fill), persistent=False)
        self._held = (source, model)  # not registered: their parameters and buffers are those of the other branch
        self._grids: dict[str, tuple[int, ...]] = {}
        self._refusals: dict[str, str] = {}
        for name, view in context.views.items():
            try:
                self._grids[name] = self._checked(view, name)
            except UserError as error:
                self._refusals[name] = str(error)

    @property
    def source(self) -> Branch:
        """The branch that is asked."""
        return self._held[0]

    @property
    def offer(self) -> Offer:
        offer = self.source.offer
        return replace(offer, taps=tuple(tap for tap in offer.taps if not tap.startswith(ATTENTION)))

    def input_shape(self, view: ViewShape, name: str) -> tuple[int, ...]:
        return self.source.input_shape(view, name)

    def num_patches(self, view: ViewShape, name: str) -> int | None:
        return self.source.num_patches(view, name)

    def grid(self, view: ViewShape, name: str) -> tuple[int, ...] | None:
        return self.source.grid(view, name)

    def refusal(self, request: Request) -> str | None:
        if request.mask is not None:
            return f"sees views whole, and not under mask {request.mask!r}"
        if request.token == "cells":
            return "gives features, and not the numbers of the view"
        refused = self.source.refusal(replace(request, branch=self.config.of)) or self._refusals.get(request.view)
        return None if refused is None else f"{refused} (it shows shifted copies of views to {self.config.of!r})"

    def _checked(self, view: ViewShape, name: str) -> tuple[int, ...]:
        """Cells of a view along its axes, of which the last two are rows and columns; refuses one whose copies cannot
        be made, or are all the same."""
        grid, shape = self.source.grid(view, name), self.source.input_shape(view, name)
        if grid is None:
            raise UserError("its tokens lie on no grid, and copies are shifted by whole cells")
        if len(grid) < 2:
            raise UserError("its tokens lie on a line, and copies are shifted along rows and columns")
        if any(side % cells for side, cells in zip(shape[-2:], grid[-2:], strict=True)):
            raise UserError(f"its {_shown(shape[-2:])} numbers are no whole cells of a grid of {_shown(grid)}")
        if not self.config.flip and not any(self._most(grid)):
            raise UserError(
                f"a shift of {', '.join(f'{share:g}' for share in self.config.shift)} is less than one cell of its "
                f"grid of {_shown(grid)} and flip is 0: all copies would be the same"
            )
        if len(self.config.fill) not in (1, shape[0]):
            raise UserError(f"it has {shape[0]} channels, and fill has {len(self.config.fill)} numbers")
        return grid

    def _most(self, grid: tuple[int, ...]) -> tuple[int, int]:
        """Largest shift along rows and columns, in cells."""
        return limits((grid[-2], grid[-1]), (self.config.shift[0], self.config.shift[-1]))

    def _copies(self, batch: Batch, name: str, view: View) -> list[Copy]:
        """Of a view: one for each number of ``copies``."""
        count, places = self.config.copies, batch.position + np.arange(len(view.data) // view.count)
        numbers = 2 * CANDIDATES * count + 1 + count
        streams = [f"branch.{self.name}.{name}.{number}" for number in range(view.count)]
        drawn = np.concatenate([counter.uniform(self.seed, places, 0, one, numbers) for one in streams])  # [R, numbers]
        candidates, first, turned = np.split(drawn, [numbers - count - 1, numbers - count], axis=1)
        most = self._most(self._grids[name])
        offsets = shifts(candidates.reshape(len(drawn), -1, 2), first[:, 0], most)  # [R, copies, 2]
        mirrored = turned < self.config.flip
        mirrored[:, 0] = False
        moved, flipped = (to_device(array, view.data.device) for array in (offsets, mirrored))
        return [Copy(moved[:, i, 0], moved[:, i, 1], flipped[:, i]) for i in range(count)]

    def forward(
        self, batch: Batch, requests: Iterable[Request], outputs: Mapping[Request, Tensor]
    ) -> dict[Request, Tensor]:
        """Means over the copies of the views that are asked about, float32."""
        requests = tuple(dict.fromkeys(requests))
        fed = self.source.fed(batch, {request.view for request in requests})
        answers: dict[Request, Tensor] = {}
        for name in dict.fromkeys(request.view for request in requests):
            some = [request for request in requests if request.view == name]
            answers |= self._of_view(fed, name, some, self._copies(batch, name, fed.views[name]))
        return answers

    def _of_view(
        self, batch: Batch, name: str, requests: Sequence[Request], copies: Sequence[Copy]
    ) -> dict[Request, Tensor]:
        view, grid = batch.views[name], self._grids[name]
        asked = {request: _whole(request, self.config.of) for request in requests}
        sums: dict[Request, Tensor] = {}
        covered = torch.zeros(len(view.data), *grid[-2:], device=view.data.device)
        for begin in range(0, len(copies), self.config.at_once):
            some = copies[begin : begin + self.config.at_once]
            shown = [self._shown(view, copy, grid) for copy in some]
            rows = replace(
                view, data=torch.cat([data for data, _ in shown]),
                valid=None if view.valid is None else torch.cat([valid for _, valid in shown if valid is not None]),
            )  # fmt: skip
            said = self._held[1](replace(batch, views={**batch.views, name: rows}), asked.values())
            for request, tensor in said.items():
                for copy, part in zip(some, tensor.float().chunk(len(some)), strict=True):
                    value = part if request.token != "patches" else copy.put_back(_as_grid(part, grid))[0]
                    sums[request] = value if request not in sums else sums[request] + value
            for copy in some:
                covered += copy.put_back(covered.new_ones(len(covered), 1, *grid[-2:]))[1][:, 0]
        means = {r: s / (len(copies) if r.token != "patches" else _over(covered, s)) for r, s in sums.items()}
        tokens = {r: m if r.token != "patches" else _as_tokens(m) for r, m in means.items()}
        return {request: chosen(tokens[asked[request]], request, batch) for request in requests}

    def _shown(self, view: View, copy: Copy, grid: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """A copy of a view and which of its tokens are no padding; what a shift has vacated counts as real."""
        height, width = view.data.shape[-2:]
        fill = self.fill.view(-1, *[1] * (view.data.ndim - 2))
        data = copy.shown(view.data, (height // grid[-2], width // grid[-1]), fill)
        if view.valid is None:
            return data, None
        valid = view.valid.view(len(view.valid), *grid).to(torch.uint8)
        return data, copy.shown(valid, (1, 1), 1).bool().flatten(1)


def _whole(request: Request, branch: str) -> Request:
    """What the other branch is asked for: the patches of all cells where some are wanted."""
    token = "patches" if request.token in ("masked", "visible") else request.token
    return replace(request, branch=branch, token=token, rule=None)


def _as_grid(tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
    """[R, N, D] -> [R, ..., D, rows, columns]."""
    return tokens.unflatten(1, grid).movedim(-1, -3)


def _as_tokens(features: Tensor) -> Tensor:
    """[R, ..., D, rows, columns] -> [R, N, D]."""
    return features.movedim(-3, -1).flatten(1, -2)


def _over(covered: Tensor, total: Tensor) -> Tensor:
    """Numbers of copies [R, rows, columns], to divide sums [R, ..., D, rows, columns] by."""
    return covered.view(len(covered), *[1] * (total.ndim - 3), *covered.shape[1:])


def _shown(grid: tuple[int, ...]) -> str:
    return " x ".join(map(str, grid))
