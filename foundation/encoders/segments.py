"""How rows of tokens lie packed in one matrix, and which of their tokens are read after the last block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foundation.encoders.rotation import Rotation


@dataclass(frozen=True, eq=False)
class Segment:
    """Consecutive rows of equal length in a packed matrix.

    Attributes:
        rows: number of rows R.
        tokens: tokens of a row, class and register tokens included.
        rotation: rotary tables of these rows, or None.
        valid: [R, tokens] bool, False for padding, which no token attends to; None: all are real.
    """

    rows: int
    tokens: int
    rotation: Rotation | None = None
    valid: Tensor | None = None

    @property
    def length(self) -> int:
        """Tokens of all rows together."""
        return self.rows * self.tokens

    def select(self, rows: Tensor) -> Segment:
        """The rows of these numbers, [K] int64."""
        rotation = None if self.rotation is None else self.rotation.of_rows(rows)
        valid = None if self.valid is None else self.valid.index_select(0, rows)
        return replace(self, rows=len(rows), rotation=rotation, valid=valid)


def merge(segments: Sequence[Segment]) -> list[Segment]:
    """Join neighbours that can share one attention call."""
    merged: list[Segment] = []
    for segment in segments:
        last = merged[-1] if merged else None
        alike = last is not None and last.tokens == segment.tokens and last.rotation is segment.rotation
        if last is not None and alike and last.valid is None and segment.valid is None:
            merged[-1] = replace(last, rows=last.rows + segment.rows)
        else:
            merged.append(segment)
    return merged


def unpack(tokens: Tensor, segments: Sequence[Segment]) -> list[Tensor]:
    """Cut packed tokens [T, D] back into rows, [R_i, tokens_i, D] for each segment."""
    parts = tokens.split([segment.length for segment in segments])
    return [
        part.view(segment.rows, segment.tokens, tokens.shape[-1]) for part, segment in zip(parts, segments, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class Wanted:
    """Tokens of a segment that something reads: the prefix of every row, and then some of its patch tokens.

    Attributes:
        segment: how its tokens are packed.
        prefix: class and register tokens in front of each row.
        indices: [rows * prefix + M] int64 of the wanted tokens in the segment, the prefixes first.
    """

    segment: Segment
    prefix: int
    indices: Tensor

    @classmethod
    def of(cls, segment: Segment, prefix: int, patches: Tensor) -> Wanted:
        """The prefix of every row and the patch tokens at the distinct places ``patches``, [M] in [rows * N]."""
        rows, front = (torch.arange(count, device=patches.device) for count in (segment.rows, prefix))
        indices = (rows[:, None] * segment.tokens + front).flatten()
        if len(patches):
            row = patches.div(segment.tokens - prefix, rounding_mode="floor")
            indices = torch.cat((indices, patches + (row + 1) * prefix))
        return cls(segment, prefix, indices)

    @property
    def patches(self) -> int:
        """Wanted patch tokens M."""
        return len(self.indices) - self.segment.rows * self.prefix

    @property
    def rows(self) -> Tensor:
        """[rows * prefix + M] the row of each wanted token."""
        return self.indices.div(self.segment.tokens, rounding_mode="floor")

    def spread(self, tokens: Tensor) -> Tensor:
        """Wanted tokens as queries of their rows, [rows * prefix + M, D] -> [rows, queries, D].

        Where patches are wanted each token stands in its own place, and zeros in those of the others: rows want
        different numbers of them, and places carry rotations.
        """
        if not self.patches:
            return tokens.view(self.segment.rows, self.prefix, tokens.shape[-1])
        all_of_them = tokens.new_zeros(self.segment.length, tokens.shape[-1]).index_copy(0, self.indices, tokens)
        return all_of_them.view(self.segment.rows, self.segment.tokens, tokens.shape[-1])

    def gather(self, queries: Tensor) -> Tensor:
        """Back from :meth:`spread`, [rows * queries, D] -> [rows * prefix + M, D]."""
        return queries.index_select(0, self.indices) if self.patches else queries


def choose(patches: Tensor, wanted: Tensor | None) -> Tensor:
    """Patch tokens [R, N, D] at places [M] of the flattened [R * N], [M, D]; all as they are for None."""
    return patches if wanted is None else patches.flatten(0, 1).index_select(0, wanted)


def select(tokens: Tensor, wanted: Sequence[Wanted]) -> Tensor:
    """The wanted tokens of packed segments, [T, D] -> [K, D], one segment after the other."""
    if len(wanted) == 1:
        return tokens.index_select(0, wanted[0].indices)
    parts = tokens.split([part.segment.length for part in wanted])
    return torch.cat([part.index_select(0, some.indices) for part, some in zip(parts, wanted, strict=True)])


def pool(patches: Tensor, valid: Tensor | None) -> Tensor:
    """Mean over the real tokens of each row, [R, N, D] -> [R, D]."""
    if valid is None:
        return patches.mean(1)
    weight = valid[..., None].to(patches.dtype)
    return (patches * weight).sum(1) / weight.sum(1).clamp(min=1)
