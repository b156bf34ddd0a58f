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
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation import heads as head_module
from foundation.encoders.blocks import Block, BlockShape
from foundation.encoders.segments import Segment
from foundation.errors import UserError
from foundation.linear import Linear
from foundation.objectives.base import Objective, Request, Result
from foundation.ranges import Depth, DepthOrNone, Positive, Range, Side, check
from foundation.schedules import Clock, Weight
from foundation.types import MASKING, Batch

Distance = Literal["l1", "l2", "smooth_l1", "chamfer"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Prediction of the view's own numbers at the hidden tokens."""

    weight: Weight = 1.0
    """Factor of this loss in the total."""
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
    """Linear layers from a token to its numbers, GELU between them (ASiT: 4); after the decoder's blocks, if any."""
    hidden: Side = 512
    """Width between those layers."""
    bottleneck: Side | None = None
    """Width before the last of them (ASiT: 128); None: ``hidden``."""
    decoder_depth: DepthOrNone = 0
    """Transformer blocks of a decoder, which sees all tokens of a row (MAE: 8; Point-MAE: 4); 0: none (SimMIM)."""
    decoder_width: Side = 128
    """Width of the decoder (MAE-B: 512)."""
    decoder_heads: Annotated[int, Range(1, 1024)] = 4
    """Attention heads of the decoder."""

    def __post_init__(self) -> None:
        if self.distance not in ("l1", "l2", "smooth_l1", "chamfer"):
            raise UserError(
                f"reconstruction: distance must be 'l1', 'l2', 'smooth_l1' or 'chamfer', got {self.distance!r}"
            )
        if self.over not in ("masked", "all"):
            raise UserError(f"reconstruction: over must be 'masked' or 'all', got {self.over!r}")
        check(self, "reconstruction")
        if self.decoder_width % self.decoder_heads:
            raise UserError(
                f"reconstruction: decoder_width {self.decoder_width} is not a multiple of decoder_heads "
                f"{self.decoder_heads}"
            )
        if self.normalise and self.distance == "chamfer":
            raise UserError("reconstruction: normalise would move the points of 'chamfer': leave it out")

    def build(self, clock: Clock, heads: Mapping[str, head_module.Config], width: int) -> Reconstruction:
        """The objective of a run; ``width`` is the encoder's."""
        return Reconstruction(self, width)


class Reconstruction(Objective):
    """Reconstruction loss with its decoder. See :class:`Config`.

    Attributes:
        cell_shape: numbers that a token covers, as the tokenizer gives them.
        decoder: blocks on all tokens; None without.
        predict: from a token to the numbers that it covers.
    """

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.config, self.width = config, width
        whole = config.decoder_depth > 0 or config.over == "all"
        self.student_request = Request("student", config.view, "patches" if whole else "masked")
        self.cells_request = Request("student", config.view, "cells")
        self.requests = (self.student_request, self.cells_request)
        self.cell_shape: tuple[int, ...] = ()
        self.decoder: Decoder | None = None
        if config.decoder_depth:
            self.decoder = Decoder(width, config.decoder_width, config.decoder_depth, config.decoder_heads)

    def attach(self, encoder: Any) -> None:
        """Size the last layer after the cells of the encoder's tokenizer.

        Raises:
            UserError: the tokenizer cannot say what a token covers, or not in points for ``chamfer``.
        """
        shape = getattr(getattr(encoder, "tokenizer", None), "cell_shape", None)
        if shape is None:
            raise UserError(
                "reconstruction needs an encoder whose tokenizer says what a token covers (cells and cell_shape, see "
                "docs/extending.md); timm models do not"
            )
        if self.config.distance == "chamfer" and len(shape) != 2:
            raise UserError(f"reconstruction: distance 'chamfer' is for tokens of [points, 3]; these are {list(shape)}")
        self.cell_shape = tuple(shape)
        widths = [self.config.hidden] * (self.config.layers - 1)
        if widths and self.config.bottleneck is not None:
            widths[-1] = self.config.bottleneck
        widths = [self.config.decoder_width if self.decoder else self.width, *widths, math.prod(shape)]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.GELU()] if layers else []
            layers.append(Linear(inputs, outputs))
            nn.init.trunc_normal_(layers[-1].weight, std=0.02)  # type: ignore[arg-type]
            nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]
        self.predict = nn.Sequential(*layers)

    def forward(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        """Loss (mean over the tokens and numbers that count, those of all processes; 0 without any) and ``explained``.

        ``explained`` is 1 - squared error / variance of the targets: 0 for a prediction that knows their mean only.
        """
        tokens, cells = outputs[self.student_request], outputs[self.cells_request].flatten(0, 1)  # [R N, *cell]
        if self.decoder is not None:
            tokens = self.decoder(tokens)
        mask = batch.masks[self.config.view, MASKING] if self.config.over == "masked" else None
        if self.student_request.token == "patches":
            tokens = tokens.flatten(0, 1)
        if mask is not None:
            cells = cells.index_select(0, mask.indices)
            tokens = tokens.index_select(0, mask.indices) if self.student_request.token == "patches" else tokens
        predicted = self.predict(tokens)
        with torch.autocast(predicted.device.type, enabled=False):
            result = self._loss(predicted.float(), cells.flatten(1).float())
        return result if mask is None else Result(mask.weighted(result.loss), result.metrics)

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


class Decoder(nn.Module):
    """Blocks of its own width on all tokens of a row.

    The encoder has put mask tokens with their positions in hidden places, so none are added here.

    Args:
        inputs: width of the encoder's tokens.
        width: of the decoder.
        depth: blocks.
        heads: attention heads.
    """

    def __init__(self, inputs: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        shape = BlockShape(
            width=width,
            heads=heads,
            mlp_ratio=4.0,
            ffn="mlp",
            norm="layernorm",
            norm_eps=1e-6,
            qkv_bias=True,
            zero_key_bias=False,
            layer_scale=None,
            backend="auto",
        )
        self.embed = Linear(inputs, width)
        nn.init.trunc_normal_(self.embed.weight, std=0.02)
        nn.init.zeros_(self.embed.bias)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(depth))
        for block in self.blocks:
            block.reset_parameters()  # type: ignore[operator]
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        """[R, N, D] -> [R, N, width]."""
        rows, count, _ = tokens.shape
        packed = self.embed(tokens).flatten(0, 1)
        for block in self.blocks:
            packed = block(packed, [Segment(rows, count)])
        decoded: Tensor = self.norm(packed).unflatten(0, (rows, count))
        return decoded


def chamfer(first: Tensor, second: Tensor) -> Tensor:
    """Mean over sets of the mean squared distance to the nearest point of the other set, both ways added.

    Args:
        first: [M, P, d].
        second: [M, Q, d].
    """
    squared = (first[:, :, None] - second[:, None]).square().sum(-1)  # [M, P, Q]
    return squared.amin(2).mean() + squared.amin(1).mean()
