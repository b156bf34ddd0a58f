"""Masked reconstruction: what was hidden is to be told from what was not, number by number.

One objective for the family: masked autoencoders (He et al. 2022; ``masking.mode: drop``), SimMIM (Xie et al. 2022;
``mode: token``) and group masked model learning (Atito et al. 2021, 2024; ``mode: input``). It knows no modality: the
tokenizer says which numbers a token covers (``cells``), be they pixels, spectrogram cells or stretches of signal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation.branches.request import Request, Token
from foundation.encoders.protocol import Encoder
from foundation.errors import UserError
from foundation.linear import Linear
from foundation.objectives.base import Objective, ObjectiveContext, Result
from foundation.ranges import Depth, Positive, Side, check
from foundation.schedules import Weight
from foundation.types import Batch

Distance = Literal["l1", "l2", "smooth_l1", "chamfer"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Prediction of the view's own numbers at the hidden tokens."""

    weight: Weight = 1.0
    """Factor of this loss in the total."""
    student: str = "student"
    """Name of the branch that learns."""
    mask: str | None = "masking"
    """Mask rule of the recipe under which the student sees views that it hides parts of; null: none."""
    head: str | None = None
    """Head of the recipe that the tokens pass first, such as a decoder (MAE, Point-MAE); null: none (SimMIM)."""
    view: str = "global"
    """The masked view."""
    distance: Distance = "l2"
    """Absolute (``l1``: ASiT, SimMIM) or squared (``l2``: MAE) difference, or ``smooth_l1`` of ``beta``; ``chamfer``:
    squared distance of each point to the nearest of the other set, both ways, for tokens that cover points (Point-MAE).
    """
    beta: Positive = 1.0
    """Difference at which ``smooth_l1`` turns from squared to absolute."""
    normalise: bool = False
    """Give the numbers of each token mean 0 and deviation 1 first (MAE's better variant)."""
    over: Literal["masked", "all"] = "masked"
    """Tokens in the loss: the hidden ones, or all."""
    layers: Depth = 1
    """Linear layers from a token to its numbers, GELU between them (ASiT: 4); behind the head, if any."""
    hidden: Side = 512
    """Width between those layers."""
    bottleneck: Side | None = None
    """Width before the last of them (ASiT: 128); None: ``hidden``."""

    def __post_init__(self) -> None:
        if self.distance not in ("l1", "l2", "smooth_l1", "chamfer"):
            raise UserError(
                f"reconstruction: distance must be 'l1', 'l2', 'smooth_l1' or 'chamfer', got {self.distance!r}"
            )
        if self.over not in ("masked", "all"):
            raise UserError(f"reconstruction: over must be 'masked' or 'all', got {self.over!r}")
        check(self, "reconstruction")
        if self.normalise and self.distance == "chamfer":
            raise UserError("reconstruction: normalise would move the points of 'chamfer': leave it out")

    def build(self, context: ObjectiveContext) -> Reconstruction:
        """The objective of a run.

        Raises:
            UserError: the tokenizer cannot say what a token covers, or not in points for ``chamfer``.
        """
        return Reconstruction(self, context)


class Reconstruction(Objective):
    """Reconstruction loss with its last layers. See :class:`Config`.

    Attributes:
        cell_shape: numbers that a token covers, as the tokenizer gives them.
        predict: from a token to the numbers that it covers.
    """

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        rule = context.mask(config.mask, config.view)
        self.mask_key = (config.view, rule or "")
        token: Token = "patches" if config.over == "all" else "masked"
        self.student_request = Request(config.student, config.view, token, config.head, mask=rule)
        self.cells_request = Request(config.student, config.view, "cells")
        self.requests = (self.student_request, self.cells_request)
        width = context.outputs(config.student, config.head)
        self.cell_shape = self._cell_shape(context.offer(config.student).encoder)
        widths = [config.hidden] * (config.layers - 1)
        if widths and config.bottleneck is not None:
            widths[-1] = config.bottleneck
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([width, *widths, math.prod(self.cell_shape)]):
            layers += [nn.GELU()] if layers else []
            layers.append(Linear(inputs, outputs))
            nn.init.trunc_normal_(layers[-1].weight, std=0.02)  # type: ignore[arg-type]
            nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]
        self.predict = nn.Sequential(*layers)

    def _cell_shape(self, encoder: Encoder | None) -> tuple[int, ...]:
        shape = None if encoder is None else encoder.capabilities.cell_shape
        if shape is None:
            raise UserError(
                "reconstruction needs an encoder whose tokenizer says what a token covers (cells and cell_shape, see "
                "docs/extending.md)"
            )
        if self.config.distance == "chamfer" and len(shape) != 2:
            raise UserError(f"reconstruction: distance 'chamfer' is for tokens of [points, 3]; these are {list(shape)}")
        return shape

    def forward(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        """Loss (mean over the tokens and numbers that count, those of all processes; 0 without any) and ``explained``.

        ``explained`` is 1 - squared error / variance of the targets: 0 for a prediction that knows their mean only.
        """
        tokens, cells = outputs[self.student_request], outputs[self.cells_request].flatten(0, 1)  # [R N, *cell]
        mask = batch.masks[self.mask_key] if self.config.over == "masked" else None
        if mask is None:
            tokens = tokens.flatten(0, 1)
        else:
            cells = cells.index_select(0, mask.indices)
        predicted = self.predict(tokens)
        with torch.autocast(predicted.device.type, enabled=False):
            result = self._loss(predicted.float(), cells.flatten(1).float())
        if mask is None:
            return result
        return Result(mask.weighted(result.loss), result.metrics, dict.fromkeys(result.metrics, len(mask.indices)))

    def _loss(self, predicted: Tensor, target: Tensor) -> Result:
        """``predicted`` and ``target`` [M, numbers of a token]."""
        config = self.config
        if not len(target):  # the same metrics as always: processes with tokens average theirs with these
            nothing = {} if config.distance == "chamfer" else {"explained": predicted.new_zeros(())}
            return Result(predicted.sum(), nothing)
        if config.normalise:
            target = (target - target.mean(1, keepdim=True)) / (target.var(1, keepdim=True) + 1e-6).sqrt()
        if config.distance == "chamfer":
            loss = chamfer(predicted.unflatten(1, self.cell_shape), target.unflatten(1, self.cell_shape))
            return Result(loss, {})
        with torch.no_grad():
            explained = 1.0 - (predicted - target).square().mean() / target.var(correction=0).clamp(min=1e-12)
        if config.distance == "l1":
            loss = F.l1_loss(predicted, target)
        elif config.distance == "l2":
            loss = F.mse_loss(predicted, target)
        else:
            loss = F.smooth_l1_loss(predicted, target, beta=config.beta)
        return Result(loss, {"explained": explained})


def chamfer(first: Tensor, second: Tensor) -> Tensor:
    """Mean over sets of the mean squared distance to the nearest point of the other set, both ways added.

    Args:
        first: [M, P, d].
        second: [M, Q, d].
    """
    squared = (first[:, :, None] - second[:, None]).square().sum(-1)  # [M, P, Q]
    return squared.amin(2).mean() + squared.amin(1).mean()
