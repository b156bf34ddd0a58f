"""Joint embedding prediction: from the tokens that a student sees, features of those that it does not (JEPA).

V-JEPA 2 (Assran et al. 2025) on clips, with two mask rules in one step; V-JEPA (Bardes et al. 2024) and, on pictures,
I-JEPA (Assran et al. 2023) are of the same kind. Letters: R rows, N tokens of a view, V visible ones of a row, M hidden
ones of a row that are asked for, D width of the encoder, P width of the predictor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation.branches.request import Request
from foundation.encoders.blocks import Block, BlockShape
from foundation.encoders.positions import LearnedPositions, PositionConfig, RotaryPositions
from foundation.encoders.segments import Segment
from foundation.errors import UserError
from foundation.linear import Linear
from foundation.objectives.base import MASKING, Objective, ObjectiveContext, Result
from foundation.ranges import Depth, Length, Range, Side, check
from foundation.schedules import Schedule, Weight
from foundation.types import Batch, TokenMask

ROTARY = PositionConfig(kind="rotary", base=10000.0, normalise="none")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Prediction of a teacher's features of hidden tokens.

    The teacher sees the view whole; the targets are its tokens, each with mean 0 and deviation 1. The loss is the mean
    over the mask rules of the mean over tokens and features of ``|prediction - target| ** power / power``.
    """

    weight: Weight = 1.0
    """Factor of this loss in the total."""
    student: str = "student"
    """Name of the branch that learns."""
    teacher: str = "teacher"
    """Name of the branch whose features are predicted."""
    view: str = "global"
    """The view."""
    masks: Annotated[tuple[str, ...], Length(1, 64)] = (MASKING,)
    """Mask rules of the recipe, with ``mode: drop``; the student sees the view once under each (V-JEPA 2: two)."""
    power: Annotated[float, Range(1, 8)] = 1.0
    """Power of the difference: 1 is the absolute (V-JEPA), 2 the squared one."""
    visible_weight: Annotated[Schedule, Range(0, 1e6)] = Schedule(start=0.0, shape="constant")
    """Factor, over the run, of the same loss on the tokens that the student sees (V-JEPA 2.1, Mur-Labadia et al. 2026:
    without it they need not know what is where). Each counts by one over the square root of its distance, in tokens,
    from the next hidden one. 0: the predictor is not asked about them."""
    width: Side = 384
    """Width P of the predictor."""
    depth: Depth = 12
    """Transformer blocks of the predictor."""
    heads: Annotated[int, Range(1, 1024)] = 12
    """Attention heads of the predictor."""
    position: PositionConfig = ROTARY
    """Where the predictor's tokens are: ``rotary``, or ``learned``."""

    def __post_init__(self) -> None:
        check(self, "jepa")
        if self.width % self.heads:
            raise UserError(f"jepa: width {self.width} is not a multiple of heads {self.heads}")
        if self.position.kind not in ("rotary", "learned"):
            raise UserError(f"jepa: position.kind must be 'rotary' or 'learned', got {self.position.kind!r}")
        if len(set(self.masks)) < len(self.masks):
            raise UserError(f"jepa: a mask rule is named twice: {', '.join(self.masks)}")

    def build(self, context: ObjectiveContext) -> Jepa:
        """The objective of a run.

        Raises:
            UserError: no such branch, view or mask rule; a rule that does not hide any of the view; features of student
                and teacher of different widths.
        """
        return Jepa(self, context)


class Jepa(Objective):
    """See :class:`Config`.

    Attributes:
        predictor: from visible tokens to features of hidden ones.
        coordinates: [N, d] places of the view's tokens in their grid.
    """

    coordinates: Tensor

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        for rule in config.masks:
            if context.mask(rule, config.view) is None:
                raise UserError(f"mask rule {rule!r} does not hide any of view {config.view!r}")
            if (mode := context.modes.get(rule, "drop")) != "drop":
                raise UserError(f"mask rule {rule!r} has mode {mode!r}: it must be 'drop'")
        student = context.offer(config.student)
        if config.view not in context.views:
            raise UserError(f"there is no view {config.view!r}; the recipe's are: {', '.join(context.views)}")
        if student.encoder is None:
            raise UserError(f"branch {config.student!r} has no encoder that could say where its tokens are")
        if student.encoder.config.coordinates_of is not None:
            raise UserError(f"jepa needs tokens on a grid, and those of branch {config.student!r} lie on none")
        coordinates = student.encoder.coordinates(context.views[config.view].shape[1:])
        grid = tuple(int(last) + 1 for last in coordinates.max(axis=0))
        self.predictor = Predictor(config, context.width(config.student), context.width(config.teacher), grid)
        self.context_requests = tuple(
            Request(config.student, config.view, "visible", mask=rule) for rule in config.masks
        )
        self.target_requests = tuple(Request(config.teacher, config.view, "masked", rule=rule) for rule in config.masks)
        self.visible_requests: tuple[Request, ...] = ()
        if any(config.visible_weight.numbers()):
            self.visible_requests = tuple(replace(r, token="visible") for r in self.target_requests)
        self.clock = context.clock
        self.register_buffer("coordinates", torch.from_numpy(np.array(coordinates)).float(), persistent=False)
        self.requests = (*self.context_requests, *self.target_requests, *self.visible_requests)

    def forward(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        """Loss and, with several mask rules, that of each, ``loss_RULE``; ``loss_visible`` is apart from those.

        Raises:
            UserError: a mask rule whose mode is not ``drop``.
        """
        masks = [batch.masks[self.config.view, rule] for rule in self.config.masks]
        for rule, mask in zip(self.config.masks, masks, strict=True):
            if mask.mode != "drop":
                raise UserError(f"jepa: mask rule {rule!r} has mode {mask.mode!r}: it must be 'drop'")
        seen = [_places(mask.visible_indices, mask) for mask in masks]
        asked = [_places(mask.indices, mask) for mask in masks]
        tokens = [outputs[r].unflatten(0, part.shape) for r, part in zip(self.context_requests, seen, strict=True)]
        predictions, recalled = self.predictor(tokens, seen, asked)
        losses = []
        for prediction, request, mask in zip(predictions, self.target_requests, masks, strict=True):
            losses.append(mask.weighted(self.distance(prediction.flatten(0, 1), outputs[request])))
        parts = {f"loss_{rule}": loss.detach() for rule, loss in zip(self.config.masks, losses, strict=True)}
        loss, metrics = torch.stack(losses).mean(), parts if len(parts) > 1 else {}
        if self.visible_requests:
            near = [self._nearness(*places) for places in zip(seen, asked, strict=True)]
            pairs = zip(recalled, self.visible_requests, near, strict=True)
            visible = torch.stack([self.distance(p.flatten(0, 1), outputs[r], w.flatten()) for p, r, w in pairs]).mean()
            loss = loss + self.config.visible_weight.at(step, self.clock) * visible
            metrics = metrics | {"loss_visible": visible.detach()}
        return Result(loss, metrics)

    def _nearness(self, seen: Tensor, asked: Tensor) -> Tensor:
        """[R, V] one over the square root of the distance of visible tokens from the next hidden one; 1 without any."""
        if not asked.shape[1]:
            return seen.new_ones(seen.shape, dtype=torch.float32)
        return torch.cdist(self.coordinates[seen], self.coordinates[asked]).amin(dim=-1).rsqrt()

    def distance(self, prediction: Tensor, features: Tensor, weights: Tensor | None = None) -> Tensor:
        """Mean difference of predictions and the teacher's features, both [tokens, D]; 0 without any tokens.

        Args:
            prediction: of the student.
            features: of the teacher.
            weights: [tokens] factors of their differences.
        """
        with torch.autocast(prediction.device.type, enabled=False):
            if not len(prediction):
                return prediction.float().sum()
            target = F.layer_norm(features.float(), features.shape[-1:])
            difference = (prediction.float() - target).abs()
            powers = difference if self.config.power == 1 else difference**self.config.power
            return (powers if weights is None else powers * weights[:, None]).mean() / self.config.power


def _places(indices: Tensor, mask: TokenMask) -> Tensor:
    """[R, tokens of a row] places in the view, of places in the flattened [R * N]."""
    rows, count = mask.masked.shape
    return indices.view(rows, len(indices) // rows) % count


class Predictor(nn.Module):
    """Transformer blocks on the visible tokens of a row and a mask token for each that is asked for.

    Args:
        config: of the objective.
        inputs: width D of the visible tokens.
        outputs: width of the predicted features.
        grid: of the view's tokens.

    Attributes:
        recalls: visible tokens are asked for, too.
    """

    def __init__(self, config: Config, inputs: int, outputs: int, grid: tuple[int, ...]) -> None:
        super().__init__()
        self.grid = grid
        self.recalls = any(config.visible_weight.numbers())
        shape = BlockShape(width=config.width, heads=config.heads)
        self.embed = Linear(inputs, config.width)
        self.mask_token = nn.Parameter(torch.empty(1, config.width))
        self.positions: RotaryPositions | LearnedPositions
        if config.position.kind == "rotary":
            self.positions = RotaryPositions(config.width // config.heads, 0, config.position)
            self.positions.periods(axes=len(grid))  # refuses heads that are too narrow
        else:
            self.positions = LearnedPositions(config.width, grid, config.position)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.project = Linear(config.width, outputs)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        for layer in (self.embed, self.project):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        for block in self.blocks:
            block.reset_parameters()  # type: ignore[operator]

    def forward(
        self, tokens: Sequence[Tensor], seen: Sequence[Tensor], asked: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Features of tokens, for all mask rules in one pass; the rows of each see themselves only.

        Args:
            tokens: for each rule the visible tokens [R, V, D].
            seen: for each rule their places in the view, [R, V] int64.
            asked: for each rule the places of the hidden tokens, [R, M].

        Returns:
            for each rule those of the hidden tokens [R, M, outputs], and, where ``recalls``, of the visible ones
            [R, V, outputs].
        """
        rows: list[Tensor] = []
        segments: list[Segment] = []
        for part, here, there in zip(tokens, seen, asked, strict=True):
            # The residual stream keeps the parameters' precision, as the encoder's does.
            visible = self.embed(part).to(self.mask_token.dtype)
            row = torch.cat((visible, self.mask_token.expand(*there.shape, -1)), dim=1)
            coordinates, rotation = torch.cat((here, there), dim=1), None
            if isinstance(self.positions, RotaryPositions):
                rotation = self.positions(self.grid, row.device).at(coordinates)
            else:
                row = row + self.positions(self.grid)[1][0][coordinates]
            segments.append(Segment(row.shape[0], row.shape[1], rotation))
            rows.append(row)
        packed = torch.cat([row.flatten(0, 1) for row in rows])
        for block in self.blocks:
            packed = block(packed, segments)
        hidden, visible = [], []
        for part, row, here in zip(packed.split([s.length for s in segments]), rows, seen, strict=True):
            first, rest = part.view(row.shape).split([here.shape[1], row.shape[1] - here.shape[1]], dim=1)
            hidden.append(self.project(self.norm(rest)))
            if self.recalls:
                visible.append(self.project(self.norm(first)))
        return hidden, visible
