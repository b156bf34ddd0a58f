"""The transformer trunk that every modality shares: blocks and final norm on packed tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from foundation.encoders.blocks import Block, BlockShape, make_norm
from foundation.encoders.elastic import Leading, Piece
from foundation.encoders.segments import Segment, Wanted, choose, unpack


def drop_path_rates(rate: float, depth: int, schedule: Literal["uniform", "linear"]) -> list[float]:
    """Drop path of each block: the same everywhere, or rising linearly from 0 at the first to the rate at the last."""
    if schedule == "uniform" or depth == 1:
        return [rate] * depth
    return [rate * i / (depth - 1) for i in range(depth)]


class Trunk(nn.Module):
    """Blocks and final norm. Knows tokens and rows, no modality.

    Args:
        shape: what the blocks have in common.
        rates: drop path of each block; its length is the depth.
        prefix: class and register tokens in front of each row.
        separate_class_norm: own final norm for class and register tokens (DINOv3 ``untie_cls_and_patch_norms``).
    """

    def __init__(
        self, shape: BlockShape, rates: Sequence[float], *, prefix: int, separate_class_norm: bool = False
    ) -> None:
        super().__init__()
        self.shape = shape
        self.prefix = prefix
        self.blocks = nn.ModuleList(Block(shape, rate) for rate in rates)
        self.norm = make_norm(shape.norm, shape.width, shape.norm_eps)
        self.class_norm = make_norm(shape.norm, shape.width, shape.norm_eps) if separate_class_norm else None

    def forward(
        self,
        rows: Sequence[Tensor],
        segments: Sequence[Segment] | Callable[[], Sequence[Segment]],
        taps: Sequence[str] = (),
        generator: torch.Generator | None = None,
        wanted: Sequence[Tensor | None] | None = None,
        bare: Sequence[bool] | None = None,
        again: Sequence[Tensor] | None = None,
    ) -> tuple[list[Tensor], list[Tensor], list[dict[str, Tensor]]]:
        """Run all views in one packed pass.

        Args:
            rows: for each view, [R_i, prefix + N_i, D].
            segments: for each view its shape and rotation; a function is called once for each block.
            taps: names as ``Encoder.tap_names`` lists them.
            generator: source of the drop path.
            wanted: for each view the places of the patch tokens that are wanted, [M_i] int64 in the flattened
                [R_i * N_i]; None: all are. The last block leaves the others out, unless it is tapped.
            bare: for each view whether none ever are, see ``EncoderInput.reads_patches``.
            again: for each view what is added to its tokens in front of every block but the first, of their shape.

        Returns:
            for each view the normed prefix tokens [R_i, prefix, D], the normed patch tokens ([R_i, N_i, D]; where some
            are wanted, those [M_i, D]), and what was tapped.
        """
        width = rows[0].shape[-1]
        tokens = torch.cat([view.reshape(-1, width) for view in rows]) if len(rows) > 1 else rows[0].reshape(-1, width)
        by_block: dict[int, list[str]] = {}
        for tap in taps:
            kind, index = tap.split(".")
            by_block.setdefault(int(index), []).append(kind)
        tapped: list[dict[str, Tensor]] = [{} for _ in rows]
        choice = [None] * len(rows) if wanted is None else list(wanted)
        last = len(self.blocks) - 1
        short = any(chosen is not None for chosen in choice) and last not in by_block
        current: Sequence[Segment] = ()
        added = None if again is None else torch.cat([view.reshape(-1, width) for view in again])
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            current = segments() if callable(segments) else segments
            if added is not None and number:
                tokens = tokens + added
            if short and number == last:
                return *self._finish(block, tokens, current, generator, choice, bare or [False] * len(rows)), tapped
            if kinds := by_block.get(number):
                tokens, seen = block(tokens, current, generator, None, kinds)
                for view, values in zip(tapped, seen, strict=True):
                    view |= {f"{kind}.{number}": value for kind, value in values.items()}
            else:
                tokens = block(tokens, current, generator)
        views = unpack(tokens if self.class_norm is not None else self.norm(tokens), current)
        prefixes, patches = [view[:, : self.prefix] for view in views], [view[:, self.prefix :] for view in views]
        if self.class_norm is not None:
            prefixes, patches = [self.class_norm(view) for view in prefixes], [self.norm(view) for view in patches]
        return prefixes, [choose(view, chosen) for view, chosen in zip(patches, choice, strict=True)], tapped

    def _finish(
        self,
        block: Block,
        tokens: Tensor,
        segments: Sequence[Segment],
        generator: torch.Generator | None,
        choice: Sequence[Tensor | None],
        bare: Sequence[bool],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The last block and the final norm where not all patches are wanted.

        Views of which all, some or no patches are wanted run apart: rows of the last need few queries.
        """
        parts = tokens.split([segment.length for segment in segments])
        # By what is asked for, not by how many there happen to be: processes must call the block equally often.
        pairs = zip(choice, bare, strict=True)
        kinds = ["all" if chosen is None else "none" if without else "some" for chosen, without in pairs]
        results: dict[int, tuple[Tensor, Tensor]] = {}
        for kind in ("all", "some", "none"):
            group = [i for i, its in enumerate(kinds) if its == kind]
            if not group:
                continue
            some = [segments[i] for i in group]
            packed = parts[group[0]] if len(group) == 1 else torch.cat([parts[i] for i in group])
            wanted = [Wanted.of(segments[i], self.prefix, chosen) for i in group if (chosen := choice[i]) is not None]
            done = block(packed, some, generator, wanted or None)
            sizes = [len(w.indices) for w in wanted] or [segment.length for segment in some]
            for i, part in zip(group, done.split(sizes), strict=True):
                results[i] = self._ends(part, segments[i], kind == "all")
        prefixes, patches = zip(*(results[i] for i in range(len(segments))), strict=True)
        return list(prefixes), list(patches)

    def _ends(self, tokens: Tensor, segment: Segment, whole: bool) -> tuple[Tensor, Tensor]:
        """Normed prefix tokens [R, prefix, D] and patch tokens [R, N, D] of whole rows, or [M, D] of wanted tokens."""
        if self.class_norm is None:
            tokens = self.norm(tokens)
        if whole:
            rows = tokens.view(segment.rows, segment.tokens, tokens.shape[-1])
            prefix, patches = rows[:, : self.prefix], rows[:, self.prefix :]
        else:
            prefix, patches = tokens.tensor_split((segment.rows * self.prefix,))
            prefix = prefix.view(segment.rows, self.prefix, tokens.shape[-1])
        return (prefix, patches) if self.class_norm is None else (self.class_norm(prefix), self.norm(patches))

    @property
    def rates(self) -> list[float]:
        """Drop path of each block."""
        return [block.drop_path for block in self.blocks if isinstance(block, Block)]

    def set_rates(self, rates: Sequence[float]) -> None:
        """Give each block another drop path."""
        for block, rate in zip(self.blocks, rates, strict=True):
            assert isinstance(block, Block)
            block.drop_path = rate

    def pieces(self, shape: BlockShape, blocks: Sequence[int]) -> dict[str, Piece]:
        """Where the parameters of a narrower, shallower trunk lie in this one, by its names.

        Args:
            shape: of its blocks.
            blocks: numbers of the blocks that it keeps.
        """
        width, scale = Leading(shape.width), self.shape.width / shape.width
        inner = Leading(shape.hidden, 1 if shape.ffn == "mlp" else 2)  # of a gated layer the leading part of each half
        linear = {  # outputs and inputs of the weights
            "attention.qkv": (Leading(shape.width, 3), width),
            "attention.out": (width, width),
            "ffn.hidden": (inner, width),
            "ffn.out": (width, Leading(shape.hidden)),
        }
        pieces: dict[str, Piece] = {}
        for place, number in enumerate(blocks):
            for name, _ in self.blocks[number].named_parameters():
                layer, _, kind = name.rpartition(".")
                source, index = f"blocks.{number}.{name}", linear.get(layer, (width,))
                is_matrix = layer in linear and kind == "weight"
                pieces[f"blocks.{place}.{name}"] = (
                    Piece(source, index, scale) if is_matrix else Piece(source, index[:1])
                )
        norms = [name for name, _ in self.named_parameters() if not name.startswith("blocks.")]
        return pieces | {name: Piece(name, (width,)) for name in norms}

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise again, in place."""
        for block in self.blocks:
            block.reset_parameters()  # type: ignore[operator]
        for norm in (self.norm, self.class_norm):
            if norm is not None:
                norm.reset_parameters()  # type: ignore[operator]

    def flops(self, segments: Sequence[tuple[int, int]]) -> int:
        """Floating point operations of the matrix products, forward.

        Args:
            segments: (rows, tokens of a row, prefix included) of each view.
        """
        width, hidden = self.shape.width, self.shape.hidden
        linear = 4 * width * width + (2 if self.shape.ffn == "mlp" else 3) * width * hidden
        each = sum(2 * rows * tokens * (linear + 2 * tokens * width) for rows, tokens in segments)
        return each * len(self.blocks)
