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
    backward, the products written out were 2 to 10 times as fast (``docs/benchmarks.md``). The weights of a row are
    normalised in float32 in both.
    """
    if query.device.type != "cpu" or query.dtype == torch.float32:
        return F.scaled_dot_product_attention(query, key, value)
    if query.shape[-2] > LONGEST_EXPLICIT_ROW:
        return F.scaled_dot_product_attention(query.float(), key.float(), value.float()).to(value.dtype)
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
    return scores.softmax(-1).to(value.dtype) @ value


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
        if not self.zero_key_bias:
            return self.qkv(inputs)
        query, key, value = self.qkv.bias.chunk(3)
        return F.linear(inputs, self.qkv.weight, torch.cat((query, torch.zeros_like(key), value)))

    def forward(self, inputs: Tensor, segments: Sequence[Segment]) -> Tensor:
        """Mix the tokens of each row.

        Args:
            inputs: [T, D] packed tokens.
            segments: how they are packed.

        Returns:
            [T, D].
        """
        return self.out(attend(self.project(inputs), segments, self.heads, self.backend))

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
