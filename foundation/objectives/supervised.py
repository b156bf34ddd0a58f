"""Learning from labels: what fine-tuning minimises. Letters: B samples, V views, K outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from foundation.branches.base import EncoderBranch
from foundation.branches.request import Request
from foundation.data.extras.target import TASKS, Task
from foundation.errors import UserError
from foundation.objectives.base import Objective, ObjectiveContext, Result
from foundation.ranges import Length, Positive, Range, ShareBelowOne, check
from foundation.schedules import Weight
from foundation.types import Batch, Features

Tokens = Literal["cls", "patches", "both"]
HEADS: Mapping[str, tuple[str, ...]] = {"cls": ("cls",), "patches": ("patches",), "both": ("cls", "patches")}
"""Heads that answer, by what stands for a sample. Each takes the token that it is called after."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A head's answer against the label of each sample (``data.extras``, kind ``target``), averaged over the samples
    that have one: softmax cross-entropy for classes, binary cross-entropy for several labels, squared error for
    numbers."""

    weight: Weight = 1.0
    """Factor of this loss in the total."""
    student: str = "student"
    """Name of the branch that learns."""
    view: str = "global"
    """View that it sees."""
    target: str = "target"
    """Name in ``data.extras`` of the label."""
    task: Task = "classification"
    """``classification``, ``labels`` (several of a sample) or ``regression``."""
    tokens: Tokens = "cls"
    """What stands for a sample: its class token, the mean of its patch tokens, or both. The heads are called ``cls``
    and ``patches``; of two the answers are added."""
    label_smoothing: ShareBelowOne = 0.0
    """Share of a class's weight that is spread over all classes (Szegedy et al. 2016)."""
    class_weights: Annotated[tuple[Annotated[float, Range(0, 1e6)], ...], Length(0, 1_000_000)] = ()
    """Weight of each class, or of each label where it is there; empty: all are 1."""
    delta: Positive | None = None
    """Of a regression: errors above this many standard deviations count linearly (Huber 1964); None: squared."""

    def __post_init__(self) -> None:
        check(self, "supervised")
        if self.task not in TASKS:
            raise UserError(f"supervised: task must be one of {', '.join(TASKS)}, got {self.task!r}")
        if self.tokens not in HEADS:
            raise UserError(f"supervised: tokens must be one of {', '.join(HEADS)}, got {self.tokens!r}")
        if self.class_weights and self.task == "regression":
            raise UserError("supervised: a regression has no classes that could be weighted")

    def build(self, context: ObjectiveContext) -> Supervised:
        """The objective of a run.

        Raises:
            UserError: a head is missing, or the weights are not one for each of its outputs.
        """
        outputs = {int(context.head(self.student, name).outputs) for name in HEADS[self.tokens]}
        if len(outputs) > 1:
            raise UserError(f"supervised: the heads {' and '.join(HEADS[self.tokens])} differ in their outputs")
        if self.class_weights and {len(self.class_weights)} != outputs:
            raise UserError(f"supervised: {len(self.class_weights)} class_weights for {outputs.pop()} outputs")
        return Supervised(self)


class Supervised(Objective):
    """See :class:`Config`."""

    class_weights: Tensor | None

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        kinds: dict[str, Literal["cls", "patches"]] = {"cls": "cls", "patches": "patches"}
        self.requests = tuple(Request(config.student, config.view, kinds[name], name) for name in HEADS[config.tokens])
        weights = torch.tensor(config.class_weights) if config.class_weights else None
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        """Loss; ``labelled``, the share of the samples that teach; ``accuracy`` of classes, ``error`` of numbers."""
        target = batch.extras[self.config.target]
        assert isinstance(target, Tensor), "an extra of the kind `target`"
        answers = torch.stack([self._answer(outputs[request], batch, request) for request in self.requests]).sum(dim=0)
        answers, count = answers.float(), batch.views[self.config.view].count
        target = target.repeat(count, *[1] * (target.ndim - 1))
        known = target >= 0 if target.ndim == 1 else target.isfinite().all(dim=1)
        number = known.sum().clamp(min=1)
        with torch.autocast(answers.device.type, enabled=False):
            each = self.losses(answers, target.nan_to_num() if target.ndim > 1 else target.clamp(min=0))
            loss = (each * known).sum() / number
        figures = {"labelled": known.float().mean(), **self._figures(answers.detach(), target, known, number)}
        return Result(loss, figures)

    def losses(self, answers: Tensor, target: Tensor) -> Tensor:
        """Loss [V * B] of answers [V * B, K]."""
        config, weights = self.config, self.class_weights
        if config.task == "classification":
            smoothing = config.label_smoothing
            return F.cross_entropy(answers, target, weights, reduction="none", label_smoothing=smoothing)
        if config.task == "labels":
            smooth = target * (1 - config.label_smoothing) + 0.5 * config.label_smoothing
            return F.binary_cross_entropy_with_logits(answers, smooth, reduction="none", pos_weight=weights).mean(dim=1)
        if config.delta is not None:
            return F.huber_loss(answers, target, reduction="none", delta=config.delta).mean(dim=1)
        return (answers - target).square().mean(dim=1)

    def _figures(self, answers: Tensor, target: Tensor, known: Tensor, number: Tensor) -> dict[str, Tensor]:
        if self.config.task == "classification":
            return {"accuracy": ((answers.argmax(dim=1) == target) & known).sum() / number}
        if self.config.task == "regression":
            return {"error": ((answers - target.nan_to_num()).abs().mean(dim=1) * known).sum() / number}
        right = ((answers > 0) == (target > 0.5)).float().mean(dim=1)
        return {"accuracy": (right * known).sum() / number}

    def _answer(self, output: Tensor, batch: Batch, request: Request) -> Tensor:
        """[V * B, K]. The head is affine: the mean of its answers is its answer to the mean."""
        if request.token == "cls":
            return output
        return mean_of_patches(output, batch.views[self.config.view].valid)


def mean_of_patches(values: Tensor, valid: Tensor | None) -> Tensor:
    """Mean [R, K] of values [R, N, K] over the patch tokens that are no padding (``valid`` [R, N] bool; None: all)."""
    if valid is None:
        return values.mean(dim=1)
    weight = valid[..., None].to(values.dtype)
    return (values * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def answers_of(branch: EncoderBranch, views: Tensor, tokens: Tokens) -> Tensor:
    """What the heads of a branch say of evaluation views [B, ...]: [B, K] float32."""
    features: Features = branch.encoder([views])[0]
    answers = {
        "cls": lambda: branch.heads["cls"](features.cls),
        "patches": lambda: mean_of_patches(branch.heads["patches"](features.patches), features.valid),
    }
    return torch.stack([answers[name]().float() for name in HEADS[tokens]]).sum(dim=0)
