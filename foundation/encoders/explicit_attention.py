"""Attention as matrix products: what is quicker than the fused kernel on a CPU in half precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable


def _mix(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """``softmax(q k' / sqrt(d)) v`` of contiguous [N, tokens, d] in half precision, and the softmax weights.

    Every softmax is computed in float32. One half-precision copy of the weights is kept for the backward pass; autograd
    would keep a float32 copy as well.
    """
    scores = torch.bmm(query, key.transpose(1, 2)).float().mul_(query.shape[-1] ** -0.5)
    weights = scores.softmax(-1).to(value.dtype)
    return torch.bmm(weights, value), weights


def _mix_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, weights: Tensor, out: Sequence[Tensor]
) -> None:
    """Gradients of :func:`_mix`, written into ``out``: those of query, key and value."""
    torch.bmm(weights.transpose(1, 2), gradient, out=out[2])
    to_weights = torch.bmm(gradient, value.transpose(1, 2))
    to_scores = torch.ops.aten._softmax_backward_data(to_weights.float(), weights.float(), -1, torch.float32)
    to_scores = to_scores.mul_(query.shape[-1] ** -0.5).to(query.dtype)
    torch.bmm(to_scores, key, out=out[0])
    torch.bmm(to_scores.transpose(1, 2), query, out=out[1])


class ExplicitAttention(torch.autograd.Function):
    """Half-precision attention of [N, tokens, d] as matrix products; queries may be fewer than keys."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mixed, weights = _mix(query, key, value)
        ctx.save_for_backward(query, key, value, weights)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, weights = ctx.saved_tensors
        to_query, to_key, to_value = (torch.empty_like(part) for part in (query, key, value))
        _mix_backward(gradient.contiguous(), query, key, value, weights, (to_query, to_key, to_value))
        return to_query, to_key, to_value


class PackedAttention(torch.autograd.Function):
    """The same for a segment as its projection gives it, [rows * tokens, 3 * D] -> [rows * tokens, D].

    Queries, keys and values, and their gradients, change their order in memory together, in one copy each way.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, rows: int, tokens: int, heads: int) -> Tensor:
        packed = rearrange(qkv, "(r t) (k h d) -> k (r h) t d", r=rows, t=tokens, k=3, h=heads).contiguous()
        query, key, value = packed.unbind(0)
        mixed, weights = _mix(query, key, value)
        ctx.save_for_backward(packed, weights)
        ctx.sizes = {"r": rows, "t": tokens, "h": heads}
        return rearrange(mixed, "(r h) t d -> (r t) (h d)", **ctx.sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        packed, weights = ctx.saved_tensors
        gradient = rearrange(gradient, "(r t) (h d) -> (r h) t d", **ctx.sizes).contiguous()
        to_packed = torch.empty_like(packed)
        query, key, value = packed.unbind(0)
        _mix_backward(gradient, query, key, value, weights, to_packed.unbind(0))
        return rearrange(to_packed, "k (r h) t d -> (r t) (k h d)", **ctx.sizes), None, None, None
