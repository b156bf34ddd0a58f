"""From an input to the tokens that enter the first block: tokenizer, positions, mask, class and register tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation.encoders.positions import CoordinatePositions, LearnedPositions, PositionConfig, RotaryPositions
from foundation.encoders.protocol import Capabilities, EncoderModule
from foundation.encoders.segments import Segment
from foundation.encoders.tokenizers import (
    CoveringTokenizer,
    ScatteredTokenizerConfig,
    SpreadingTokenizer,
    TokenizerConfig,
)
from foundation.errors import UserError


class Embedding(EncoderModule):
    """The half of an encoder in front of its trunk.

    Args:
        tokenizer: how the input becomes tokens.
        width: width D of a token.
        heads: that rotary positions are for.
        size: input size at which learned positions are trained.
        position: kind of positions.
        class_token: whether there is one.
        registers: number of register tokens.
        token_std: standard deviation of class and register tokens at the start.
    """

    def __init__(
        self,
        tokenizer: TokenizerConfig,
        *,
        width: int,
        heads: int,
        size: tuple[int, ...],
        position: PositionConfig,
        class_token: bool,
        registers: int,
        token_std: float,
    ) -> None:
        super().__init__()
        self.width = width
        self.token_std = token_std
        self.prefix = class_token + registers
        self.tokenizer = tokenizer.build(width)
        if class_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        else:
            self.register_parameter("cls_token", None)
        self.mask_token = nn.Parameter(torch.empty(1, width))
        if registers:
            self.register_tokens = nn.Parameter(torch.empty(1, registers, width))
        else:
            self.register_parameter("register_tokens", None)
        self.positions: LearnedPositions | RotaryPositions | CoordinatePositions | None = None
        if position.kind == "learned":
            grid = tuple(int(last) + 1 for last in tokenizer.coordinates(size).max(axis=0))
            self.positions = LearnedPositions(width, grid, position)
        elif position.kind == "rotary":
            self.positions = RotaryPositions(width // heads, self.prefix, position)
        elif position.kind == "mlp":
            assert isinstance(tokenizer, ScatteredTokenizerConfig), "tokens on a grid have no coordinates of their own"
            self.positions = CoordinatePositions(width, tokenizer.dimensions, position)

    @property
    def capabilities(self) -> Capabilities:
        """What it can do, which depends on the tokenizer."""
        covering = isinstance(self.tokenizer, CoveringTokenizer)
        return Capabilities(
            hides=True,
            drops=True,
            overwrites=isinstance(self.tokenizer, SpreadingTokenizer),
            cell_shape=tuple(self.tokenizer.cell_shape) if covering else None,
            ragged=True,
            elastic=True,
        )

    def embed(
        self, view: Tensor, mask: Tensor | None = None, tokenized: tuple[Tensor, Any, Tensor | None] | None = None
    ) -> tuple[Tensor, tuple[int, ...] | Tensor, Tensor | None]:
        """Tokens of one view as they enter the first block.

        Args:
            view: as in ``forward``.
            mask: as in ``forward``.
            tokenized: what the tokenizer gave for this view, where it has seen it already.

        Returns:
            [R, 1 + registers + N, D]; the grid, or the places of tokens that lie on none [R, N, d]; validity as the
            tokenizer gives it.
        """
        tokens, grid, valid = self.tokenizer(view) if tokenized is None else tokenized
        if mask is not None:
            if mask.shape != tokens.shape[:2]:
                raise UserError(
                    f"mask is {list(mask.shape)}, but the view has {list(tokens.shape[:2])} rows and tokens"
                )
            tokens = torch.where(mask[:, :, None], self.mask_token.to(tokens.dtype), tokens)
        cls = self.cls_token
        if isinstance(self.positions, LearnedPositions):
            cls_position, patch_positions = self.positions(grid)
            cls, tokens = None if cls is None else cls + cls_position, tokens + patch_positions
        elif isinstance(self.positions, CoordinatePositions):
            tokens = tokens + self.positions(grid)
        parts = [part for part in (cls, self.register_tokens) if part is not None]
        # The residual stream keeps the parameters' precision: under autocast only the patches come in half precision.
        together = [part.expand(tokens.shape[0], -1, -1) for part in parts] + [tokens.to(self.mask_token.dtype)]
        return torch.cat(together, dim=1), grid, valid

    def added_again(self, grid: Any) -> Tensor | None:
        """What is added to the tokens in front of every block but the first, [R, 1 + registers + N, D]; None: nothing.

        Args:
            grid: as :meth:`embed` gives it.
        """
        positions = self.positions
        if not isinstance(positions, CoordinatePositions) or not positions.every_block:
            return None
        return F.pad(positions(grid), (0, 0, self.prefix, 0))

    def segments(
        self,
        rows: Sequence[Tensor],
        grids: Sequence[Any],
        valids: Sequence[Tensor | None],
        kept: Sequence[Tensor | None],
        generator: torch.Generator | None,
    ) -> list[Segment] | Callable[[], list[Segment]]:
        """How the tokens of views lie in the trunk; a function where their rotation is drawn anew for every block.

        Args:
            rows: tokens of each view as they enter the trunk, [R_i, prefix + N_i, D].
            grids: of each view, as :meth:`embed` gives them.
            valids: of each view, [R_i, N_i] or None.
            kept: of each view the places of these tokens among all, [R_i, prefix + N_i], where some were left out; or
                None.
            generator: source of the positions' augmentation.
        """
        keys = [None if one is None else F.pad(one, (self.prefix, 0), value=True) for one in valids]
        plain = [Segment(view.shape[0], view.shape[1], valid=key) for view, key in zip(rows, keys, strict=True)]
        positions = self.positions
        if not isinstance(positions, RotaryPositions):
            return plain

        def make() -> list[Segment]:
            segments = []
            for segment, view, grid, places in zip(plain, rows, grids, kept, strict=True):
                rotation = positions(grid, view.device, generator)
                segments.append(replace(segment, rotation=rotation if places is None else rotation.at(places)))
            return segments

        again = self.training and positions.config.augmented and positions.config.redraw == "block"
        return make if again else make()

    def is_patch_embed(self, name: str) -> bool:
        """Whether a parameter belongs to the tokenizer."""
        return name.startswith("tokenizer.")

    def adopted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of this encoder or of the same without registers; registers have no position, so that nothing else
        changes."""
        own = {} if self.register_tokens is None else {"register_tokens": self.register_tokens.detach()}
        return {**own, **weights}

    def cells(self, view: Tensor) -> Tensor:
        """Numbers that each token of a view covers, [R, N, *cell_shape]."""
        if not isinstance(self.tokenizer, CoveringTokenizer):
            return super().cells(view)
        return self.tokenizer.cells(view)

    def spread(self, hidden: Tensor, view: Tensor) -> Tensor:
        """Which numbers of a view lie in tokens [R, N] bool; broadcasts over the view."""
        if not isinstance(self.tokenizer, SpreadingTokenizer):
            return super().spread(hidden, view)
        return self.tokenizer.spread(hidden, view)

    @torch.no_grad()
    def reset_tokens(self) -> None:
        """Initialise class, mask and register tokens again, in place."""
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=self.token_std)
        nn.init.zeros_(self.mask_token)
        if self.register_tokens is not None:
            nn.init.normal_(self.register_tokens, std=self.token_std)


def both_valid(one: Tensor | None, other: Tensor | None, shape: tuple[int, int]) -> Tensor | None:
    """Validity of patch tokens, of such a shape [R, N]: real for the tokenizer and for the caller.

    Raises:
        UserError: the caller's has another shape.
    """
    if other is not None and other.shape != shape:
        raise UserError(f"valid is {list(other.shape)}, but the view has {list(shape)} rows and tokens")
    return other if one is None else one if other is None else one & other
