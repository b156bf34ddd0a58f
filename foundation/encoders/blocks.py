"""One transformer block and its parts, on packed tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from foundation.encoders.attention import Attention, Backend
from foundation.encoders.segments import Segment, Wanted, select, unpack
from foundation.linear import Linear

Norm = Literal["layernorm", "rmsnorm"]
FeedForward = Literal["mlp", "swiglu", "swiglu64"]
TAP_KINDS = ("block", "queries", "keys", "values", "attention", "attention_map")
"""What can be read of a block: tokens behind it, and what its attention sees (:meth:`Attention.seen`)."""


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """Everything that the blocks of a trunk have in common. See ``vit.Config`` for the meaning of the fields."""

    width: int
    heads: int
    mlp_ratio: float = 4.0
    ffn: FeedForward = "mlp"
    norm: Norm = "layernorm"
    norm_eps: float = 1e-6
    qkv_bias: bool = True
    zero_key_bias: bool = False
    layer_scale: float | None = None
    backend: Backend = "auto"

    @property
    def hidden(self) -> int:
        """Width of the hidden layer of the feed-forward part."""
        full = int(self.mlp_ratio * self.width)
        if self.ffn == "mlp":
            return full
        multiple = 64 if self.ffn == "swiglu64" else 8
        return -(-int(full * 2 / 3) // multiple) * multiple


def make_norm(kind: Norm, width: int, eps: float) -> nn.Module:
    """LayerNorm or RMSNorm (weight only) over the last axis."""
    return nn.LayerNorm(width, eps=eps) if kind == "layernorm" else nn.RMSNorm(width, eps=eps)


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = Linear(width, hidden)
        self.out = Linear(hidden, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """[T, D] -> [T, D]."""
        return self.out(F.gelu(self.hidden(inputs)))


class SwiGlu(nn.Module):
    """``out(silu(a) * b)`` where ``a`` and ``b`` are the halves of one linear layer (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = Linear(width, 2 * hidden)
        self.out = Linear(hidden, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """[T, D] -> [T, D]."""
        gate, content = self.hidden(inputs).chunk(2, dim=-1)
        return self.out(F.silu(gate) * content)


class Block(nn.Module):
    """Pre-norm block: ``x += scale * attention(norm(x))``, then ``x += scale * ffn(norm(x))``.

    With drop path in training, each residual is computed for a random subset of the rows of each view only, and
    scaled up by rows / kept (DINOv2): the saved work is real, not multiplied by zero.

    Args:
        shape: widths and kinds.
        drop_path: share of rows that skip a residual.
    """

    def __init__(self, shape: BlockShape, drop_path: float = 0.0) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.attention_norm = make_norm(shape.norm, shape.width, shape.norm_eps)
        self.attention = Attention(
            shape.width,
            shape.heads,
            qkv_bias=shape.qkv_bias,
            zero_key_bias=shape.zero_key_bias,
            backend=shape.backend,
        )
        self.ffn_norm = make_norm(shape.norm, shape.width, shape.norm_eps)
        self.ffn = (Mlp if shape.ffn == "mlp" else SwiGlu)(shape.width, shape.hidden)
        self.layer_scale = shape.layer_scale
        if shape.layer_scale is not None:
            self.attention_scale = nn.Parameter(torch.full((shape.width,), float(shape.layer_scale)))
            self.ffn_scale = nn.Parameter(torch.full((shape.width,), float(shape.layer_scale)))
        else:
            self.register_parameter("attention_scale", None)
            self.register_parameter("ffn_scale", None)

    @overload
    def forward(
        self,
        tokens: Tensor,
        segments: Sequence[Segment],
        generator: torch.Generator | None = None,
        wanted: Sequence[Wanted] | None = None,
        taps: tuple[()] = (),
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        tokens: Tensor,
        segments: Sequence[Segment],
        generator: torch.Generator | None = None,
        wanted: None = None,
        taps: Sequence[str] = (),
    ) -> tuple[Tensor, list[dict[str, Tensor]]]: ...

    def forward(
        self,
        tokens: Tensor,
        segments: Sequence[Segment],
        generator: torch.Generator | None = None,
        wanted: Sequence[Wanted] | None = None,
        taps: Sequence[str] = (),
    ) -> Tensor | tuple[Tensor, list[dict[str, Tensor]]]:
        """Run the block.

        Args:
            tokens: [T, D] packed tokens.
            segments: how they are packed, one for each view.
            generator: source of the drop path; torch's own generator of the device when None.
            wanted: for each segment the tokens that are wanted (those that something reads after the last block). The
                others are looked at and not computed. None: all are.
            taps: some of ``TAP_KINDS``, not together with ``wanted``. They are results and not read beside the block,
                so that whatever is hooked to its forward pass (sharded weights) has happened.

        Returns:
            [T, D]; with ``wanted`` [K, D]. With taps also, for each segment, what was tapped by its kind, [R, ...].
        """
        assert not (wanted and taps), "a tapped block computes all tokens"
        dropping = self.training and self.drop_path > 0
        if wanted is not None:
            some = select(tokens, wanted)
            factor = _row_factors(wanted, segments, self.drop_path, generator).to(tokens.dtype) if dropping else None
            part = self.attention(self.attention_norm(tokens), segments, wanted)
            some = add_residual(some, part if factor is None else part * factor, self.attention_scale)
            factor = _row_factors(wanted, segments, self.drop_path, generator).to(tokens.dtype) if dropping else None
            part = self.ffn(self.ffn_norm(some))
            return add_residual(some, part if factor is None else part * factor, self.ffn_scale)
        tapped: list[dict[str, Tensor]] = [{} for _ in segments]
        inner = [kind for kind in taps if kind != "block"]
        qkv = self.attention.project(self.attention_norm(tokens)) if inner else None  # of all rows, dropped or not
        for kind in inner:
            assert qkv is not None
            for one, value in zip(tapped, self.attention.seen(qkv, segments, kind), strict=True):
                one[kind] = value
        if dropping:
            kept = keep_rows(segments, self.drop_path, tokens.device, generator)
            if kept is not None:
                if qkv is None:
                    part = self.attention(self.attention_norm(kept.select(tokens)), kept.segments)
                else:
                    part = self.attention.mix(kept.select(qkv), kept.segments)
                tokens = kept.add(tokens, part, self.attention_scale)
            kept = keep_rows(segments, self.drop_path, tokens.device, generator)
            if kept is not None:
                part = self.ffn(self.ffn_norm(kept.select(tokens)))
                tokens = kept.add(tokens, part, self.ffn_scale)
        else:
            if qkv is None:
                part = self.attention(self.attention_norm(tokens), segments)
            else:
                part = self.attention.mix(qkv, segments)
            tokens = add_residual(tokens, part, self.attention_scale)
            tokens = add_residual(tokens, self.ffn(self.ffn_norm(tokens)), self.ffn_scale)
        if "block" in taps:
            for one, value in zip(tapped, unpack(tokens, segments), strict=True):
                one["block"] = value
        return (tokens, tapped) if taps else tokens

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise again, in place: truncated normal (0.02) weights, zero biases, unit norms."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.LayerNorm | nn.RMSNorm):
                layer.reset_parameters()
        if self.layer_scale is not None:
            nn.init.constant_(self.attention_scale, self.layer_scale)
            nn.init.constant_(self.ffn_scale, self.layer_scale)


def add_residual(tokens: Tensor, part: Tensor, scale: Tensor | None) -> Tensor:
    """``tokens + part * scale``, in the dtype of the tokens where they are wider."""
    if scale is None:
        return tokens + part
    if tokens.dtype == part.dtype == scale.dtype:
        return torch.addcmul(tokens, part, scale)
    return tokens + part * scale


class _AddRows(torch.autograd.Function):
    """``tokens.index_add(0, index, part, alpha=factor)``; torch's own keeps ``part`` for a backward without use."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, index: Tensor, part: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(index)
        ctx.factor, ctx.dtype = factor, part.dtype
        return tokens.index_add(0, index, part.to(tokens.dtype), alpha=factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, None]:
        (index,) = ctx.saved_tensors
        return gradient, None, gradient.index_select(0, index).mul_(ctx.factor).to(ctx.dtype), None


@dataclass(frozen=True, eq=False)
class KeptRows:
    """A random subset of rows for one residual.

    Attributes:
        whole: the segments that rows were drawn from, empty ones left out.
        rows: for each, the numbers of the kept rows.
        index: [K] places of the kept rows' tokens in the packed matrix.
    """

    whole: list[Segment]
    rows: list[Tensor]
    index: Tensor

    @classmethod
    def of(cls, segments: Sequence[Segment], rows: Sequence[Tensor]) -> KeptRows:
        """The subset that keeps these rows of each segment that has tokens."""
        whole: list[Segment] = []
        indices, start = [], 0
        for segment in segments:
            if segment.length:
                kept = rows[len(whole)]
                place = torch.arange(segment.tokens, device=kept.device)
                indices.append((start + kept[:, None] * segment.tokens + place).flatten())
                whole.append(segment)
            start += segment.length
        return cls(whole, list(rows), torch.cat(indices))

    @property
    def segments(self) -> list[Segment]:
        """How the kept tokens are packed."""
        return [segment.select(kept) for segment, kept in zip(self.whole, self.rows, strict=True)]

    @property
    def factors(self) -> list[float]:
        """Rows / kept, for each segment."""
        return [segment.rows / len(kept) for segment, kept in zip(self.whole, self.rows, strict=True)]

    def select(self, tokens: Tensor) -> Tensor:
        """The kept tokens, [K, D]."""
        return tokens.index_select(0, self.index)

    def add(self, tokens: Tensor, part: Tensor, scale: Tensor | None) -> Tensor:
        """Add a residual of the kept rows to all tokens, scaled so that its expectation is that of all rows."""
        part, factors = part if scale is None else part * scale, self.factors
        if any(factor != factors[0] for factor in factors):
            pieces = part.split([segment.length for segment in self.segments])
            part = torch.cat([piece * factor for piece, factor in zip(pieces, factors, strict=True)])
            factors = [1.0]
        result: Tensor = _AddRows.apply(tokens, self.index, part, factors[0])
        return result


def keep_rows(
    segments: Sequence[Segment], drop_path: float, device: torch.device, generator: torch.Generator | None
) -> KeptRows | None:
    """Draw the rows that one residual is computed for; None where there are no tokens."""
    rows = [_draw(s.rows, drop_path, device, generator) for s in segments if s.length]
    return KeptRows.of(segments, rows) if rows else None


def _draw(rows: int, drop_path: float, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """``max(floor(R * (1 - drop_path)), 1)`` numbers of R rows at random."""
    where = generator.device if generator is not None else device
    return torch.randperm(rows, generator=generator, device=where)[: max(int(rows * (1 - drop_path)), 1)].to(device)


def _row_factors(
    wanted: Sequence[Wanted], segments: Sequence[Segment], drop_path: float, generator: torch.Generator | None
) -> Tensor:
    """Factor of each wanted token, [K, 1]: rows / kept in rows that one residual keeps, 0 in those that skip it.

    Wanted tokens are few, and how many lie in the kept rows only the device knows: all are computed.
    """
    factors = []
    for some, segment in zip(wanted, segments, strict=True):
        of_row = torch.zeros(segment.rows, device=some.indices.device)
        if segment.length:
            kept = _draw(segment.rows, drop_path, of_row.device, generator)
            of_row = of_row.index_fill(0, kept, segment.rows / len(kept))
        factors.append(of_row.index_select(0, some.rows))
    return torch.cat(factors)[:, None]
