"""Self-attention over packed rows: tokens of all views in one matrix, attention inside each row alone."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from foundation.encoders.positions import Rotation
from foundation.errors import UserError

Backend = Literal["auto", "sdpa", "xformers"]


@dataclass(frozen=True, eq=False)
class Segment:
    """Consecutive rows of equal length in a packed matrix.

    Attributes:
        rows: number of rows R.
        tokens: tokens of a row, class and register tokens included.
        rotation: rotary tables of these rows, or None.
    """

    rows: int
    tokens: int
    rotation: Rotation | None = None

    @property
    def length(self) -> int:
        """Tokens of all rows together."""
        return self.rows * self.tokens


def merge(segments: Sequence[Segment]) -> list[Segment]:
    """Join neighbours that can share one attention call."""
    merged: list[Segment] = []
    for segment in segments:
        last = merged[-1] if merged else None
        if last is not None and last.tokens == segment.tokens and last.rotation is segment.rotation:
            merged[-1] = replace(last, rows=last.rows + segment.rows)
        else:
            merged.append(segment)
    return merged


def first_tokens(tokens: Tensor, segments: Sequence[Segment], count: int) -> Tensor:
    """The first ``count`` tokens of each row, [T, D] -> [sum of rows * count, D]."""
    parts = tokens.split([segment.length for segment in segments])
    rows = [part.view(s.rows, s.tokens, -1)[:, :count].flatten(0, 1) for part, s in zip(parts, segments, strict=True)]
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def split_heads(qkv: Tensor, segment: Segment, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of one segment, rotated where it has a rotation.

    Args:
        qkv: [rows * tokens, 3 * D].
        segment: the shape of the rows.
        heads: number of heads.

    Returns:
        three tensors [rows, tokens, heads, head_width].
    """
    joint = qkv.view(segment.rows, segment.tokens, 3, heads, -1)
    if segment.rotation is None:
        query, key, value = joint.unbind(2)
        return query, key, value
    pair, value = joint.split((2, 1), dim=2)
    query, key = segment.rotation(pair).unbind(2)
    return query, key, value.squeeze(2)


def attend(qkv: Tensor, segments: Sequence[Segment], heads: int, backend: Backend = "auto") -> Tensor:
    """Softmax attention inside each row.

    Args:
        qkv: [T, 3 * D], the segments' tokens one after the other.
        segments: their shapes; the lengths sum to T.
        heads: number of heads.
        backend: ``sdpa``, ``xformers``, or ``auto``: xformers for several lengths on a GPU where it is installed.

    Returns:
        [T, D].
    """
    segments = merge(segments)
    parts = qkv.split([segment.length for segment in segments]) if len(segments) > 1 else (qkv,)
    split = [split_heads(part, segment, heads) for part, segment in zip(parts, segments, strict=True)]
    if choose_backend(backend, qkv.device, len(segments)) == "xformers":
        return _attend_xformers(split)
    results = []
    for query, key, value in split:
        mixed = _softmax_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        results.append(mixed.transpose(1, 2).reshape(query.shape[0] * query.shape[1], -1))
    return results[0] if len(results) == 1 else torch.cat(results)


LONGEST_EXPLICIT_ROW = 512
"""Tokens up to which half-precision attention on a CPU is written out as matrix products."""


def _softmax_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of [rows, heads, tokens, head_width]; the quicker of two ways to the same numbers.

    The fused half-precision kernel of a CPU spends most of its time converting: at 17 to 197 tokens, forward and
    backward, the products written out were 2 to 10 times as fast (``docs/benchmarks.md``).
    """
    if query.device.type != "cpu" or query.dtype == torch.float32:
        return F.scaled_dot_product_attention(query, key, value)
    if query.shape[-2] > LONGEST_EXPLICIT_ROW:
        return F.scaled_dot_product_attention(query.float(), key.float(), value.float()).to(value.dtype)
    mixed: Tensor = _ExplicitAttention.apply(query.contiguous(), key.contiguous(), value.contiguous())
    return mixed


class _ExplicitAttention(torch.autograd.Function):
    """``softmax(q k' / sqrt(d)) v`` as matrix products in half precision, every softmax in float32.

    Keeps one half-precision copy of the weights for the backward pass; autograd would keep a float32 copy as well.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scale = query.shape[-1] ** -0.5
        scores = torch.matmul(query, key.transpose(-1, -2)).float().mul_(scale)
        weights = scores.softmax(-1).to(value.dtype)
        ctx.save_for_backward(query, key, value, weights)
        ctx.scale = scale
        return torch.matmul(weights, value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, weights = ctx.saved_tensors
        gradient = gradient.contiguous()
        to_value = torch.matmul(weights.transpose(-1, -2), gradient)
        to_weights = torch.matmul(gradient, value.transpose(-1, -2))
        to_scores = torch.ops.aten._softmax_backward_data(to_weights.float(), weights.float(), -1, torch.float32)
        to_scores = to_scores.mul_(ctx.scale).to(query.dtype)
        return torch.matmul(to_scores, key), torch.matmul(to_scores.transpose(-1, -2), query), to_value


def choose_backend(backend: Backend, device: torch.device, segments: int = 2) -> Literal["sdpa", "xformers"]:
    """Resolve ``auto``.

    Raises:
        UserError: xformers is asked for by name and cannot be used.
    """
    if backend == "sdpa" or (backend == "auto" and (device.type != "cuda" or segments < 2)):
        return "sdpa"
    if backend == "xformers" and device.type != "cuda":
        raise UserError(
            f"attention: xformers needs a CUDA GPU, but the tokens are on {device.type!r}: use sdpa or auto"
        )
    found, problem = _xformers()
    if found is None:
        if backend == "xformers":
            raise UserError(
                f"attention: xformers cannot be imported ({problem}): install the extra "
                "foundation-pretrain[gpu], or use sdpa or auto"
            )
        return "sdpa"
    return "xformers"


@functools.cache
def _xformers() -> tuple[Any, str]:
    """The module ``xformers.ops``, or None and the reason."""
    if importlib.util.find_spec("xformers") is None:
        return None, "it is not installed"
    try:
        return importlib.import_module("xformers.ops"), ""
    except Exception as problem:  # a wheel for another torch build fails in many ways
        return None, f"{type(problem).__name__}: {problem}"


def _attend_xformers(split: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    operations, _ = _xformers()
    lengths = [query.shape[1] for query, _, _ in split for _ in range(query.shape[0])]
    mask = operations.fmha.BlockDiagonalMask.from_seqlens(lengths)
    query, key, value = (torch.cat([part[i].flatten(0, 1) for part in split])[None] for i in range(3))
    return operations.memory_efficient_attention(query, key, value, attn_bias=mask)[0].flatten(1)


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection to queries, keys and values.

    Args:
        width: width D of a token.
        heads: number of heads; divides D.
        qkv_bias: bias of the fused projection.
        zero_key_bias: keep the bias of the keys at 0 without removing it (DINOv3 ``mask_k_bias``); it cancels in
            the softmax, so training it does nothing but drift.
        backend: see ``attend``.
    """

    def __init__(
        self, width: int, heads: int, *, qkv_bias: bool = True, zero_key_bias: bool = False, backend: Backend = "auto"
    ) -> None:
        super().__init__()
        self.heads = heads
        self.zero_key_bias = zero_key_bias and qkv_bias
        self.backend: Backend = backend
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.out = nn.Linear(width, width)

    def project(self, inputs: Tensor) -> Tensor:
        """Queries, keys and values, [T, D] -> [T, 3 * D]."""
        return F.linear(inputs, self.qkv.weight, self._bias())

    def _bias(self) -> Tensor | None:
        if not self.zero_key_bias:
            return self.qkv.bias
        query, key, value = self.qkv.bias.chunk(3)
        return torch.cat((query, torch.zeros_like(key), value))

    def forward(self, inputs: Tensor, segments: Sequence[Segment], first: int | None = None) -> Tensor:
        """Mix the tokens of each row.

        Args:
            inputs: [T, D] packed tokens.
            segments: how they are packed.
            first: only the first so many tokens of each row are wanted; they must not be rotated.

        Returns:
            [T, D]; with ``first`` [sum of rows * first, D].
        """
        if first is None:
            return self.out(attend(self.project(inputs), segments, self.heads, self.backend))
        width, bias = inputs.shape[-1], self._bias()
        parts = (None, None) if bias is None else bias.split((width, 2 * width))
        query = F.linear(first_tokens(inputs, segments, first), self.qkv.weight[:width], parts[0])
        memory = F.linear(inputs, self.qkv.weight[width:], parts[1])
        mixed, begin, seen = [], 0, 0
        for segment in segments:
            asked = query[begin : begin + segment.rows * first].view(segment.rows, first, self.heads, -1)
            joint = memory[seen : seen + segment.length].view(segment.rows, segment.tokens, 2, self.heads, -1)
            key, value = joint.unbind(2)
            key = key if segment.rotation is None else segment.rotation(key)
            result = _softmax_attention(asked.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
            mixed.append(result.transpose(1, 2).reshape(segment.rows * first, width))
            begin, seen = begin + segment.rows * first, seen + segment.length
        return self.out(mixed[0] if len(mixed) == 1 else torch.cat(mixed))

    def inspect(self, inputs: Tensor, segments: Sequence[Segment], kind: str) -> list[Tensor]:
        """What the attention sees, for taps; computed beside the forward pass.

        Args:
            inputs: [T, D] packed tokens, normed.
            segments: how they are packed.
            kind: ``queries``, ``keys``, ``values`` (before rotation) or ``attention``.

        Returns:
            for each segment [R, tokens, D], or for ``attention`` the softmax weights of the class token
            [R, heads, tokens].
        """
        results = []
        for part, segment in zip(self.project(inputs).split([s.length for s in segments]), segments, strict=True):
            if kind == "attention":
                query, key, _ = split_heads(part, segment, self.heads)
                scores = torch.einsum("rhd,rthd->rht", query[:, 0].float(), key.float()) * query.shape[-1] ** -0.5
                results.append(scores.softmax(-1))
            else:
                place = ("queries", "keys", "values").index(kind)
                results.append(part.view(segment.rows, segment.tokens, 3, -1)[:, :, place])
        return results
