"""Self-attention over packed rows: tokens of all views in one matrix, attention inside each row alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from foundation import planned
from foundation.encoders.explicit_attention import ExplicitAttention, PackedAttention
from foundation.encoders.packed_attention import PACKED, attend_packed, layout_of, unavailable, unfit
from foundation.encoders.segments import Segment, Wanted, merge, select
from foundation.errors import UserError
from foundation.linear import Linear, linear

ResolvedBackend = Literal["sdpa", "explicit", "xformers", "varlen", "flex"]
Backend = Literal["auto", "sdpa", "explicit", "xformers", "varlen", "flex"]


def split_heads(qkv: Tensor, segment: Segment, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of one segment, rotated where it has a rotation.

    Args:
        qkv: [rows * tokens, 3 * D].
        segment: the shape of the rows.
        heads: number of heads.

    Returns:
        three tensors [rows, tokens, heads, head_width].
    """
    joint = qkv.view(segment.rows, segment.tokens, 3, heads, qkv.shape[-1] // (3 * heads))
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
        backend: ``xformers``, ``varlen`` and ``flex`` compute all segments in one call, ``sdpa`` (torch's own kernel)
            and ``explicit`` (matrix products) each length by itself; ``auto`` follows :data:`RULES`. Padded segments
            are ``sdpa`` always.

    Returns:
        [T, D].

    Raises:
        UserError: the backend cannot be used here.
    """
    segments = merge(segments)
    chosen = choose_backend(backend, qkv.device, len(segments), qkv.dtype)
    whole, half = all(segment.valid is None for segment in segments), qkv.dtype != torch.float32
    # varlen in float32 (probes, runs without autocast): the same numbers by sdpa.
    if chosen in PACKED and whole and len(qkv) and (half or chosen != "varlen"):
        trained, head_width = qkv.requires_grad and torch.is_grad_enabled(), qkv.shape[-1] // (3 * heads)
        reason = unfit(chosen, qkv.device, head_width, trained)
        if not reason:
            layout = layout_of([(segment.rows, segment.tokens) for segment in segments])
            return attend_packed(chosen, *_joint(qkv, segments, heads), layout).flatten(1)
        if backend == chosen:
            raise UserError(f"attention: {chosen} cannot be used: {reason}; use sdpa or auto")
    way: Way = backend if backend in ("sdpa", "explicit") else "auto"
    parts = qkv.split([segment.length for segment in segments]) if len(segments) > 1 else (qkv,)
    results: list[Tensor] = []
    for part, segment in zip(parts, segments, strict=True):
        if segment.rotation is None and segment.valid is None and _written_out(qkv, segment.tokens, way):
            results.append(PackedAttention.apply(part, segment.rows, segment.tokens, heads))
            continue
        query, key, value = split_heads(part, segment, heads)
        query, key, value = (one.transpose(1, 2) for one in (query, key, value))
        mixed = _softmax_attention(query, key, value, segment.valid, way)
        results.append(rearrange(mixed, "rows heads tokens width -> (rows tokens) (heads width)"))
    return results[0] if len(results) == 1 else torch.cat(results)


def _joint(qkv: Tensor, segments: Sequence[Segment], heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of all segments, [T, heads, head_width]; no copies where none is rotated."""
    if all(segment.rotation is None for segment in segments):
        query, key, value = qkv.view(len(qkv), 3, heads, -1).unbind(1)
        return query, key, value
    parts = qkv.split([segment.length for segment in segments])
    split = [split_heads(part, segment, heads) for part, segment in zip(parts, segments, strict=True)]
    query, key, value = (torch.cat([part[i].flatten(0, 1) for part in split]) for i in range(3))
    return query, key, value


@dataclass(frozen=True)
class Rule:
    """What ``auto`` takes on one kind of device.

    Attributes:
        device: type of the device.
        half: for tokens in half precision, or in float32.
        order: the first of these that can be used is taken.
        source: where that comes from.
    """

    device: str
    half: bool
    order: tuple[ResolvedBackend, ...]
    source: str


_ON_A_CPU = (
    "foundation bench attention --batch 2 --rounds 7 --threads 1, ViT-S, ViT-B and ViT-L, seed 0, on an AMD EPYC "
    "(Zen 4, avx512_bf16), torch 2.14.1"
)
_UNMEASURED = "not measured yet, as DINOv2 has it; to measure: foundation bench attention"

RULES = (
    Rule("cpu", True, ("explicit", "sdpa"), f"sdpa takes 2.9 to 3.5 times as long: {_ON_A_CPU}"),
    Rule("cpu", False, ("sdpa",), f"explicit takes 1.0 to 1.6 times as long: {_ON_A_CPU}"),
    Rule("cuda", True, ("xformers", "sdpa"), _UNMEASURED),
    Rule("cuda", False, ("xformers", "sdpa"), _UNMEASURED),
)
"""What was measured, by device and precision. Rows of more than :data:`LONGEST_EXPLICIT_ROW` tokens are never
``explicit``, and ways that compute all segments in one call are for rows of several lengths."""


def rule_of(device: torch.device, half: bool) -> Rule:
    """The rule for a device and precision; ``sdpa`` where there is none."""
    found = (rule for rule in RULES if rule.device == planned.kind(device) and rule.half == half)
    return next(found, Rule(planned.kind(device), half, ("sdpa",), "never measured"))


def choose_backend(
    backend: Backend, device: torch.device, segments: int = 2, dtype: torch.dtype = torch.float32
) -> ResolvedBackend:
    """Resolve ``auto``.

    Args:
        backend: as the recipe says.
        device: of the tokens.
        segments: lengths of rows that there are.
        dtype: of the tokens.

    Raises:
        UserError: a backend is asked for by name and cannot be used.
    """
    if backend == "auto":
        order = rule_of(device, dtype != torch.float32).order
        usable = [name for name in order if name not in PACKED or (segments > 1 and not unavailable(name, device))]
        return usable[0]
    problem = unavailable(backend, device) if backend in PACKED else ""
    if problem:
        raise UserError(f"attention: {problem}, or use sdpa or auto")
    return backend


LONGEST_EXPLICIT_ROW = 1024
"""Tokens up to which half-precision attention on a CPU is written out as matrix products: faster at 2,049 tokens too
(1.6 times), but the weights of a longer row take more memory than everything else that a block keeps."""


Way = Literal["auto", "sdpa", "explicit"]
"""How rows of one length are computed: by torch's kernel, by matrix products, or by whichever is quicker."""


def _written_out(tokens: Tensor, longest: int, way: Way = "auto") -> bool:
    """Whether attention over rows of up to ``longest`` tokens is written out as matrix products.

    The fused half-precision kernel of a CPU spends most of its time converting: at 17 to 197 tokens, forward and
    backward, the products written out were 2 to 10 times as fast, and 1.2 to 1.6 times as fast as the fused float32
    kernel at 197 to 2,049 (``docs/benchmarks.md``).
    """
    if way != "auto":
        return way == "explicit"
    return planned.kind(tokens.device) == "cpu" and tokens.dtype != torch.float32 and longest <= LONGEST_EXPLICIT_ROW


def _softmax_attention(
    query: Tensor, key: Tensor, value: Tensor, valid: Tensor | None = None, way: Way = "auto"
) -> Tensor:
    """Attention of [rows, heads, tokens, head_width].

    With ``valid`` [rows, tokens] bool no query attends to the keys where it is False.
    """
    if valid is not None:
        dtype = value.dtype
        if planned.kind(query.device) == "cpu":
            query, key, value = query.float(), key.float(), value.float()
        return F.scaled_dot_product_attention(query, key, value, attn_mask=valid[:, None, None]).to(dtype)
    written_out = _written_out(query, query.shape[-2], way)
    if not written_out and (way == "sdpa" or planned.kind(query.device) != "cpu" or query.dtype == torch.float32):
        return F.scaled_dot_product_attention(query, key, value)
    if not written_out:
        return F.scaled_dot_product_attention(query.float(), key.float(), value.float()).to(value.dtype)
    mixed: Tensor = ExplicitAttention.apply(
        *(part.reshape(-1, *part.shape[2:]) for part in (query, key, value))  # [rows * heads, tokens, head_width]
    )
    return mixed.view(query.shape)


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
        self.qkv = Linear(width, 3 * width, bias=qkv_bias)
        self.out = Linear(width, width)

    def project(self, inputs: Tensor) -> Tensor:
        """Queries, keys and values, [T, D] -> [T, 3 * D]."""
        return linear(inputs, self.qkv.weight, self._bias(), self.qkv.float8)

    def _bias(self) -> Tensor | None:
        if not self.zero_key_bias:
            return self.qkv.bias
        query, key, value = self.qkv.bias.chunk(3)
        return torch.cat((query, torch.zeros_like(key), value))

    def forward(self, inputs: Tensor, segments: Sequence[Segment], wanted: Sequence[Wanted] | None = None) -> Tensor:
        """Mix the tokens of each row.

        Args:
            inputs: [T, D] packed tokens.
            segments: how they are packed.
            wanted: for each segment the tokens for which the result is wanted; None: all.

        Returns:
            [T, D]; with ``wanted`` [K, D].
        """
        if wanted is None:
            return self.mix(self.project(inputs), segments)
        width, bias = inputs.shape[-1], self._bias()
        parts = (None, None) if bias is None else bias.split((width, 2 * width))
        queries = linear(select(inputs, wanted), self.qkv.weight[:width], parts[0], self.qkv.float8)
        memory = linear(inputs, self.qkv.weight[width:], parts[1], self.qkv.float8)
        mixed = []
        for some, asked, seen in zip(
            wanted,
            queries.split([len(some.indices) for some in wanted]),
            memory.split([segment.length for segment in segments]),
            strict=True,
        ):
            rows, tokens, rotation = some.segment.rows, some.segment.tokens, some.segment.rotation
            query = some.spread(asked).unflatten(-1, (self.heads, -1))
            key, value = seen.view(rows, tokens, 2, self.heads, width // self.heads).unbind(2)
            if rotation is not None:
                key = rotation(key)
                query = rotation(query) if some.patches else query  # the prefix has no place
            query, key, value = (one.transpose(1, 2) for one in (query, key, value))
            result = _softmax_attention(query, key, value, some.segment.valid)
            mixed.append(some.gather(rearrange(result, "rows heads queries d -> (rows queries) (heads d)")))
        return self.out(mixed[0] if len(mixed) == 1 else torch.cat(mixed))

    def mix(self, qkv: Tensor, segments: Sequence[Segment]) -> Tensor:
        """The rest of the way from queries, keys and values, [T, 3 * D] -> [T, D]."""
        return self.out(attend(qkv, segments, self.heads, self.backend))

    def seen(self, qkv: Tensor, segments: Sequence[Segment], kind: str) -> list[Tensor]:
        """What the attention sees, for taps.

        Args:
            qkv: [T, 3 * D] as :meth:`project` gives it.
            segments: how the tokens are packed.
            kind: ``queries``, ``keys``, ``values`` (before rotation), ``attention`` or ``attention_map``.

        Returns:
            for each segment [R, tokens, D]; for ``attention`` the softmax weights of the class token
            [R, heads, tokens]; for ``attention_map`` those of all tokens [R, heads, queries, keys].
        """
        results = []
        for part, segment in zip(qkv.split([s.length for s in segments]), segments, strict=True):
            if kind in ("attention", "attention_map"):
                query, key, _ = split_heads(part, segment, self.heads)
                asking = query[:, :1] if kind == "attention" else query
                scores = torch.einsum("rqhd,rkhd->rhqk", asking.float(), key.float()) * query.shape[-1] ** -0.5
                if segment.valid is not None:
                    scores = scores.masked_fill(~segment.valid[:, None, None], float("-inf"))
                weights = scores.softmax(-1)
                results.append(weights[:, :, 0] if kind == "attention" else weights)
            else:
                index = ("queries", "keys", "values").index(kind)
                results.append(part.view(segment.rows, segment.tokens, 3, -1)[:, :, index])
        return results
