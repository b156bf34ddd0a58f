"""A decoder: transformer blocks of their own width on all tokens of a row (He et al. 2022).

The encoder has put mask tokens with their positions in hidden places, so none are added here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor, nn

from foundation.encoders.blocks import Block, BlockShape
from foundation.encoders.segments import Segment
from foundation.errors import UserError
from foundation.linear import Linear
from foundation.ranges import Depth, Range, Side, check


@dataclass(frozen=True, kw_only=True)
class Config:
    """Blocks between an encoder's patch tokens and what is predicted from them."""

    depth: Depth = 4
    """Transformer blocks (MAE: 8; Point-MAE: 4)."""
    width: Side = 128
    """Width of the decoder (MAE-B: 512)."""
    heads: Annotated[int, Range(1, 1024)] = 4
    """Attention heads of the decoder."""

    whole: ClassVar[bool] = True
    """It takes all patch tokens of a row."""
    prototypes: ClassVar[None] = None
    """It has none."""

    def __post_init__(self) -> None:
        check(self, "heads")
        if self.width % self.heads:
            raise UserError(f"heads: a decoder's width {self.width} is not a multiple of its heads {self.heads}")

    @property
    def outputs(self) -> int:
        """Numbers of the output."""
        return self.width

    def build(self, width: int) -> Decoder:
        """Decoder for tokens of ``width`` numbers."""
        return Decoder(width, self.width, self.depth, self.heads)


class Decoder(nn.Module):
    """See :class:`Config`.

    Args:
        inputs: width of the encoder's tokens.
        width: of the decoder.
        depth: blocks.
        heads: attention heads.
    """

    def __init__(self, inputs: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        shape = BlockShape(width=width, heads=heads)
        self.embed = Linear(inputs, width)
        nn.init.trunc_normal_(self.embed.weight, std=0.02)
        nn.init.zeros_(self.embed.bias)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(depth))
        for block in self.blocks:
            block.reset_parameters()  # type: ignore[operator]
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def tap_names(self) -> list[str]:
        """``block.i``: the tokens behind block i, not normed."""
        return [f"block.{number}" for number in range(len(self.blocks))]

    def forward(self, tokens: Tensor, taps: Sequence[str] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """Decode all tokens of each row.

        Args:
            tokens: [R, N, D].
            taps: names of :meth:`tap_names`.

        Returns:
            [R, N, width], normed; and what was tapped, of the same shape.
        """
        rows, count, _ = tokens.shape
        packed = self.embed(tokens).flatten(0, 1)
        tapped: dict[str, Tensor] = {}
        for number, block in enumerate(self.blocks):
            packed = block(packed, [Segment(rows, count)])
            if f"block.{number}" in taps:
                tapped[f"block.{number}"] = packed.unflatten(0, (rows, count))
        return self.norm(packed).unflatten(0, (rows, count)), tapped
