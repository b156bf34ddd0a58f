"""Token relations: which tokens of a view look at which, as the teacher has it (Hybrid Distillation, Shi et al. 2024).

The relations are those of TinyMIM (Ren et al. 2023): softmax of queries times keys, and of values times values, in
each head of a layer. A masked autoencoder as teacher hands on the variety of its attention, which a contrastive or
supervised one lacks; that one is better learnt from by ``feature_distillation``. The class token takes no part here.
Letters: R rows, N patches, h heads, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from einops import rearrange
from torch import Tensor

from foundation.branches.request import Request
from foundation.errors import UserError
from foundation.objectives.base import MASKING, Objective, ObjectiveContext, Result
from foundation.objectives.grids import resize
from foundation.plugins import near
from foundation.ranges import Length, Range, Temperature, check
from foundation.schedules import Weight
from foundation.types import Batch

RELATIONS = {
    "queries_keys": ("queries", "keys"),
    "values_values": ("values", "values"),
    "queries_queries": ("queries", "queries"),
    "keys_keys": ("keys", "keys"),
    "block_block": ("block", "block"),
}
"""By name: the kinds of taps whose products are compared."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Kullback-Leibler divergence of the student's relations between patches from the teacher's."""

    weight: Weight = 1.0
    """Factor of this loss in the total."""
    student: str = "student"
    """Name of the branch that learns."""
    teacher: str = "teacher"
    """Name of the branch that is learnt from."""
    view: str = "global"
    """View that both see."""
    mask: str | None = MASKING
    """Mask rule of the recipe under which the student sees the view; null: it sees all of it. One that leaves tokens
    out (``mode: drop``) is refused: inside the encoder they have no relations."""
    relations: Annotated[tuple[str, ...], Length(1, 5)] = ("queries_keys", "values_values")
    """``queries_keys``, ``values_values``, ``queries_queries``, ``keys_keys``, or ``block_block`` for the tokens behind
    a block (what encoders offer that do not let their attention be seen); the loss is the mean over them."""
    layer: Annotated[int, Range(-256, 255)] = -1
    """Block of the student, from 0; -1: the last."""
    teacher_layer: Annotated[int, Range(-256, 255)] = -1
    """Block of the teacher, likewise."""
    heads: Annotated[int, Range(1, 1024)] = 12
    """Into how many parts the widths of both are cut, whatever heads they have (MiniLMv2, Wang et al. 2021)."""
    temperature: Temperature = 1.0
    """Scores are divided by this and by the square root of the width of a part."""

    def __post_init__(self) -> None:
        for name in self.relations:
            if name not in RELATIONS:
                there = ", ".join(RELATIONS)
                raise UserError(f"relation: no relation called {name!r}{near(name, RELATIONS)}; there are: {there}")
        if len(set(self.relations)) < len(self.relations):
            raise UserError(f"relation: a relation is named twice: {', '.join(self.relations)}")
        check(self, "relation")

    def build(self, context: ObjectiveContext) -> Relation:
        """The objective of a run.

        Raises:
            UserError: there is no such branch, layer, tap or mask rule; a width that cannot be cut into ``heads``
                parts; grids that cannot be resized to each other.
        """
        return Relation(self, context)


class Relation(Objective):
    """See :class:`Config`."""

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        rule = context.mask(config.mask, config.view)
        student = tap_names(context, config.student, config, config.layer)
        teacher = tap_names(context, config.teacher, config, config.teacher_layer)
        self.student_requests = {
            kind: Request(config.student, config.view, "patches", tap=tap, mask=rule) for kind, tap in student.items()
        }
        self.teacher_requests = {
            kind: Request(config.teacher, config.view, "patches", tap=tap) for kind, tap in teacher.items()
        }
        self.requests = (*self.teacher_requests.values(), *self.student_requests.values())
        self.resize = resize(context, (config.teacher, config.view), (config.student, config.view))

    def forward(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        """Loss, mean over relations, rows, heads and tokens; and that of each relation, ``loss_RELATION``."""
        student = {kind: outputs[request] for kind, request in self.student_requests.items()}
        teacher = {kind: outputs[request].detach() for kind, request in self.teacher_requests.items()}
        if self.resize is not None:
            teacher = {kind: self.resize(tokens) for kind, tokens in teacher.items()}
        parts = {}
        with torch.autocast(next(iter(student.values())).device.type, enabled=False):
            for name in self.config.relations:
                left, right = RELATIONS[name]
                goal = self.scores(teacher[left], teacher[right]).log_softmax(dim=-1)
                own = self.scores(student[left], student[right]).log_softmax(dim=-1)
                parts[f"loss_{name}"] = (goal.exp() * (goal - own)).sum(dim=-1).mean()
        metrics = {name: loss.detach() for name, loss in parts.items()} if len(parts) > 1 else {}
        return Result(torch.stack([*parts.values()]).mean(), metrics)

    def scores(self, left: Tensor, right: Tensor) -> Tensor:
        """[R, h, N, N] scaled products of tokens, both [R, N, D]."""
        left, right = (
            rearrange(tokens.float(), "r n (h d) -> r h n d", h=self.config.heads) for tokens in (left, right)
        )
        return (left @ right.mT) / (left.shape[-1] ** 0.5 * self.config.temperature)


def tap_names(context: ObjectiveContext, branch: str, config: Config, layer: int) -> dict[str, str]:
    """Tap of each kind that the relations are made of.

    Raises:
        UserError: no such branch, layer or kind of tap; a width that is no multiple of the heads.
    """
    offer = context.offer(branch)
    if offer.width % config.heads:
        raise UserError(f"heads {config.heads}: the width {offer.width} of branch {branch!r} is no multiple of it")
    names: dict[str, str] = {}
    for kind in dict.fromkeys(kind for name in config.relations for kind in RELATIONS[name]):
        numbers = sorted(int(tap.split(".")[1]) for tap in offer.taps if tap.startswith(f"{kind}."))
        if not numbers:
            kinds = sorted({tap.split(".")[0] for tap in offer.taps})
            raise UserError(
                f"branch {branch!r} does not show its {kind}: it has taps of these kinds: "
                f"{', '.join(kinds) or 'none'}; relations: [block_block] needs blocks alone"
            )
        if not -len(numbers) <= layer < len(numbers):
            raise UserError(f"there is no layer {layer} of branch {branch!r}: it has 0 to {len(numbers) - 1}")
        names[kind] = f"{kind}.{numbers[layer]}"
    return names
