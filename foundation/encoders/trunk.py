"""The transformer trunk that every modality shares: blocks and final norm on packed tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from foundation.encoders.attention import Segment
from foundation.encoders.blocks import Block, BlockShape, make_norm

TAP_KINDS = ("block", "queries", "keys", "values", "attention")


def drop_path_rates(rate: float, depth: int, schedule: Literal["uniform", "linear"]) -> list[float]:
    """Drop path of each block: the same everywhere, or rising linearly from 0 at the first to the rate at the last."""
    if schedule == "uniform" or depth == 1:
        return [rate] * depth
    return [rate * i / (depth - 1) for i in range(depth)]


def visible(mask: Tensor, hidden: int, prefix: int) -> Tensor:
    """Places of the tokens that stay when hidden ones are left out; never waits for the device.

    Args:
        mask: [R, N] bool.
        hidden: True entries in each of its rows.
        prefix: class and register tokens in front.

    Returns:
        [R, prefix + N - hidden, 1] int64, ascending.
    """
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)[:, : mask.shape[1] - hidden]
    front = torch.arange(prefix, device=mask.device).expand(len(mask), -1)
    return torch.cat((front, order + prefix), dim=1)[:, :, None]


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
        whole: Sequence[bool] | None = None,
    ) -> tuple[list[Tensor], list[Tensor], list[dict[str, Tensor]]]:
        """Run all views in one packed pass.

        Args:
            rows: for each view, [R_i, prefix + N_i, D].
            segments: for each view its shape and rotation; a function is called once for each block.
            taps: names as ``Encoder.tap_names`` lists them.
            generator: source of the drop path.
            whole: for each view whether its patch tokens are wanted; None: all are. Where they are not, the last block
                leaves them out, unless it is tapped.

        Returns:
            for each view the normed prefix tokens [R_i, prefix, D], the normed patch tokens [R_i, N_i, D] (N_i = 0
            where they are not wanted), and what was tapped.
        """
        width = rows[0].shape[-1]
        tokens = torch.cat([view.reshape(-1, width) for view in rows]) if len(rows) > 1 else rows[0].reshape(-1, width)
        wanted: dict[int, list[str]] = {}
        for tap in taps:
            kind, place = tap.split(".")
            wanted.setdefault(int(place), []).append(kind)
        tapped: list[dict[str, Tensor]] = [{} for _ in rows]
        last = len(self.blocks) - 1
        short = not all(whole or (True,)) and last not in wanted
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            current = segments() if callable(segments) else segments
            for kind in wanted.get(number, ()):
                if kind != "block":
                    inner = block.attention.inspect(block.attention_norm(tokens), current, kind)
                    for view, value in zip(tapped, inner, strict=True):
                        view[f"{kind}.{number}"] = value
            if short and number == last:
                assert whole is not None
                views = self._finish(block, tokens, current, generator, whole)
                return *self._normed(views), tapped
            tokens = block(tokens, current, generator)
            if "block" in wanted.get(number, ()):
                for view, value in zip(tapped, self.unpack(tokens, rows), strict=True):
                    view[f"block.{number}"] = value
        if self.class_norm is not None:
            return *self._normed(self.unpack(tokens, rows)), tapped
        views = self.unpack(self.norm(tokens), rows)
        return [view[:, : self.prefix] for view in views], [view[:, self.prefix :] for view in views], tapped

    def _finish(
        self,
        block: Block,
        tokens: Tensor,
        segments: Sequence[Segment],
        generator: torch.Generator | None,
        whole: Sequence[bool],
    ) -> list[Tensor]:
        """The last block where some views need their prefix only: once for those, once for the others."""
        parts = tokens.split([s.length for s in segments])
        results: dict[int, Tensor] = {}
        for first in (None, self.prefix):
            chosen = [i for i, all_of_it in enumerate(whole) if all_of_it == (first is None)]
            if chosen:
                some = [segments[i] for i in chosen]
                packed = parts[chosen[0]] if len(chosen) == 1 else torch.cat([parts[i] for i in chosen])
                done = block(packed, some, generator, first)
                sizes = [(s.rows, s.tokens if first is None else first) for s in some]
                for i, part, size in zip(chosen, done.split([r * n for r, n in sizes]), sizes, strict=True):
                    results[i] = part.view(*size, -1)
        return [results[i] for i in range(len(segments))]

    def unpack(self, tokens: Tensor, rows: Sequence[Tensor]) -> list[Tensor]:
        """Cut packed tokens [T, D] back into views shaped as ``rows``."""
        parts = tokens.split([view.shape[0] * view.shape[1] for view in rows])
        return [part.view(view.shape) for part, view in zip(parts, rows, strict=True)]

    def _normed(self, views: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Final norm of each view [R_i, prefix + N_i, D], cut into prefix and patch tokens."""
        cut = self.prefix
        if self.class_norm is not None:
            return [self.class_norm(view[:, :cut]) for view in views], [self.norm(view[:, cut:]) for view in views]
        normed = [self.norm(view) for view in views]
        return [view[:, :cut] for view in normed], [view[:, cut:] for view in normed]

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
