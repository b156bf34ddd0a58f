"""Several large blocks of a clip or picture, from the first to the last moment (V-JEPA 2, Assran et al. 2025).

The size of the blocks is drawn once for a global batch, their places for each row of it. Everything is drawn by the
place in the global batch, so that a process knows the smallest row of the whole batch without asking the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from foundation import counter
from foundation.errors import UserError
from foundation.masks.rule import Rule, stream_of, token_mask
from foundation.ranges import Factors, PositiveShare, Range, Share, Shares
from foundation.types import MASKING, TokenMask

_ATTEMPTS = 100  # draws of a row that leaves too little to see
_MOST_BLOCKS = 1000


@dataclass(frozen=True, kw_only=True)
class Config(Rule):
    """The union of blocks of one size, each at a random place.

    V-JEPA 2 has two such rules in one step: 8 blocks of 15 % and 2 blocks of 70 % of the area.
    """

    blocks: Annotated[int, Range(1, _MOST_BLOCKS)] = 8
    """Number of blocks in a row; they may overlap."""
    area: Shares = (0.15, 0.15)
    """Smallest and largest area of a block as a share of the grid of rows and columns."""
    aspect: Factors = (0.75, 1.5)
    """Smallest and largest height / width of a block. What does not fit into the grid is cut off."""
    duration: Shares = (1.0, 1.0)
    """Shortest and longest extent in time, as a share of the clip, for tokens with a time."""
    seen_until: PositiveShare = 1.0
    """Tokens after this share of the clip are hidden in any case."""
    keep: Share | None = None
    """Mode ``drop``: share of the tokens that stay visible in every row; rows with more lose the last ones, rows with
    fewer are drawn again. None: as many as the row of the global batch that has fewest (the reference: of the process's
    part of it, so that the number rises with the number of processes)."""
    ask: Literal["blocks", "hidden"] = "blocks"
    """Mode ``drop``: tokens that losses ask for: those of the blocks, as many in every row as in the row that has
    fewest, or all that are hidden."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode == "input":
            raise UserError("masking: kind 'multiblock' has mode 'token' or 'drop'")
        if self.keep is not None and self.mode != "drop":
            raise UserError("masking: keep needs mode: drop")

    @property
    def mean_share(self) -> float:
        """Expected share of tokens in the blocks, as if their places did not depend on each other."""
        one = float(np.mean(self.area) * np.mean(self.duration))
        return 1.0 - (1.0 - min(one, 1.0)) ** self.blocks

    @property
    def visible_share(self) -> float:
        """See :attr:`Rule.visible_share`."""
        return self.keep if self.keep is not None else super().visible_share

    def build(self, name: str = MASKING, view: str | None = None) -> MultiblockMasking:
        """See :meth:`Rule.build`."""
        return MultiblockMasking(self, name, view or self.view)


class MultiblockMasking:
    """See :class:`Config` and :class:`foundation.data.pipeline.Masking`."""

    by_coordinates = True
    apart_from: tuple[str, ...] = ()

    def __init__(self, config: Config, name: str, view: str) -> None:
        self.config, self._stream = config, stream_of(name, view)

    def __call__(
        self,
        coordinates: NDArray[Any],
        count: int,
        draws: counter.Draws,
        slots: NDArray[np.int64],
        group: int,
        step: int,
        must: NDArray[np.bool_] | None = None,
    ) -> TokenMask:
        """Masks of a batch; see :meth:`foundation.data.pipeline.Masking.__call__`."""
        grid, order = _grid(coordinates)
        config, drawn = self.config, 1 if self.config.shared else count
        size = block_size(config, grid, counter.uniform(draws.seed, step, 0, f"{self._stream}.size", 3)[0])
        own = (np.arange(drawn)[:, None] * group + np.asarray(slots, dtype=np.int64)[None]).reshape(-1)
        dropping = config.mode == "drop"
        # The counts of a whole batch are needed only where they decide what is left out.
        rows = np.arange(drawn * group) if dropping and (config.keep is None or config.ask == "blocks") else own
        moments = int(grid[0]) if size[0] == grid[0] and config.seen_until == 1.0 else 1  # all alike: one is drawn
        inside = self._drawn(draws.seed, step, grid, size, rows, moments)  # [rows, cells of a moment]
        covered = inside.sum(axis=1) * moments
        least, most = int(covered.min(initial=order.size)), int(covered.max(initial=0))
        inside = np.tile(inside if rows is own else inside[own], moments)  # [own rows, cells]
        masked = asked = inside
        if dropping:
            masked = ~first(~inside, order.size - most if config.keep is None else self._kept(order.size))
            asked = first(inside, least) if config.ask == "blocks" else masked
        masks = [part.reshape(drawn, len(slots), -1)[:, :, order] for part in (masked, asked)]
        whole = [np.repeat(part, count // drawn, axis=0).reshape(-1, len(order)) for part in masks]
        return token_mask(whole[0], whole[1], config.mode)

    def _kept(self, cells: int) -> int:
        """Cells that every row leaves to see, at least."""
        return 1 if self.config.keep is None else max(1, round(self.config.keep * cells))

    def _drawn(
        self,
        seed: int,
        step: int,
        grid: NDArray[np.int64],
        size: NDArray[np.int64],
        rows: NDArray[np.int64],
        moments: int,
    ) -> NDArray[np.bool_]:
        """[rows, cells / moments] what the blocks of some rows of the global batch hide; each leaves enough to see.

        With several ``moments`` these are the cells of the first one, and all others are like it.
        """
        config = self.config
        cells = int(grid.prod())
        least = self._kept(cells)
        once = np.array([moments, 1, 1])
        masks = np.zeros((len(rows), cells // moments), dtype=bool)
        missing = np.arange(len(rows))
        for attempt in range(_ATTEMPTS):
            stream = f"{self._stream}.corners.{attempt}"
            numbers = counter.uniform(seed, step, rows[missing], stream, 3 * config.blocks)
            corners = (numbers.reshape(-1, config.blocks, 3) * (grid - size + 1)).astype(np.int64)
            masks[missing] = union(grid // once, size // once, corners, config.seen_until)
            missing = missing[cells - masks[missing].sum(axis=1) * moments < least]
            if not len(missing):
                return masks
        raise UserError(
            f"masking: {config.blocks} blocks of {size.tolist()} tokens in a grid of {grid.tolist()} leave fewer than "
            f"{least} of {cells} tokens to see, {_ATTEMPTS} times in a row: lower masking.area, blocks or keep"
        )


def block_size(config: Config, grid: NDArray[np.int64], uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
    """(times, rows, columns) of a block.

    Args:
        config: of the rule.
        grid: (times, rows, columns) of the tokens.
        uniforms: [3] in [0, 1): for duration, area and aspect.
    """

    def between(ends: tuple[float, float], share: float) -> float:
        return ends[0] + share * (ends[1] - ends[0])

    times = max(1, int(grid[0] * between(config.duration, uniforms[0])))
    area = int(grid[1] * grid[2] * between(config.area, uniforms[1]))
    aspect = between(config.aspect, uniforms[2])
    sides = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
    return np.minimum(np.array([times, max(1, sides[0]), max(1, sides[1])]), grid)


def union(
    grid: NDArray[np.int64], size: NDArray[np.int64], corners: NDArray[np.int64], seen_until: float = 1.0
) -> NDArray[np.bool_]:
    """[rows, cells] what some blocks cover, cells by time, row and column.

    Args:
        grid: (times, rows, columns).
        size: of a block, likewise.
        corners: [rows, blocks, 3] first time, row and column of each block.
        seen_until: cells after this share of the times are covered as well.
    """
    covered = np.zeros((len(corners), *grid), dtype=bool)
    # A block is the product of three stretches; one axis at a time, all rows and blocks together.
    stretches = []
    for axis in range(3):
        offset = np.arange(grid[axis])[None, None] - corners[..., axis, None]
        stretches.append((offset >= 0) & (offset < size[axis]))  # [rows, blocks, cells of the axis]
    times, rows, columns = stretches
    for block in range(corners.shape[1]):
        covered |= times[:, block, :, None, None] & rows[:, block, None, :, None] & columns[:, block, None, None, :]
    covered[:, int(grid[0] * seen_until) :] = True
    return covered.reshape(len(corners), -1)


def first(masks: NDArray[np.bool_], most: int | None = None) -> NDArray[np.bool_]:
    """[rows, cells] the first cells of every row that are set, as many in each as the row with fewest has.

    Args:
        masks: [rows, cells].
        most: no more than these.
    """
    least = int(masks.sum(axis=1).min(initial=masks.shape[1]))
    return masks & (np.cumsum(masks, axis=1) <= (least if most is None else min(least, most)))


def _grid(coordinates: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Size of the grid (times, rows, columns), and [N] the cell of each token.

    Raises:
        UserError: the tokens lie on no grid of rows and columns.
    """
    if coordinates.ndim != 2 or coordinates.shape[1] not in (2, 3):
        raise UserError("masking: kind 'multiblock' needs tokens on a grid of rows and columns, with or without times")
    full = np.pad(coordinates, ((0, 0), (3 - coordinates.shape[1], 0)))
    grid = full.max(axis=0).astype(np.int64) + 1
    return grid, (full[:, 0] * grid[1] + full[:, 1]) * grid[2] + full[:, 2]
