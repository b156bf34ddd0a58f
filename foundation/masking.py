"""Token masks: which patch tokens the student must not see. Drawn on the host, by counter, without a generator.

The masks of a batch are a pure function of (seed, step, sample): how many rows of the *global* batch are masked is
exact, whatever the number of processes, and each process computes only its own rows. Letters: R rows, N tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from foundation import counter
from foundation.errors import UserError
from foundation.ranges import Count, Length, PositiveShare, Rising, Share, Side, check
from foundation.types import TokenMask

_ATTEMPTS = 10  # rectangles tried in a row without success before a mask counts as full (BEiT, DINOv2)
_FIRST_DRAW = 24  # attempts whose numbers are drawn at once; few masks need more


@dataclass(frozen=True, kw_only=True)
class Config:
    """Random masks over the patch tokens of one view.

    Two ways to say how much: ``probability`` and ``ratio`` (DINOv2: an exact share of the rows is masked, and their
    ratios are spread evenly over a range), or ``choices`` (iBOT: every row draws for itself).
    """

    view: str = "global"
    """View that gets masks."""
    also: tuple[str, ...] = ()
    """Further views that get masks by the same rule, each drawn by itself."""
    probability: Share = 0.5
    """Share of the rows (views x samples of the global batch) with a mask; exact, rounded down."""
    ratio: Annotated[tuple[Share, Share], Rising()] = (0.1, 0.5)
    """Smallest and largest share of masked tokens. The i-th masked row draws from the i-th of equal slices of it."""
    choices: Annotated[tuple[tuple[Share, Share], ...], Length(1, 1024)] | None = None
    """iBOT's rule instead: every row takes one of these (ratio, variation) at random and then a ratio uniform in
    [ratio - variation, ratio + variation]; ``[[0, 0], [0.3, 0.2]]`` in its ViT-S recipe. Overrides the two above."""
    kind: Literal["block", "random", "span"] = "block"
    """``block``: a union of random rectangles; where tokens lie on no grid (groups of points), the tokens nearest to a
    random one. ``random``: single tokens. ``span``: stretches of time (the last coordinate), through all rows."""
    span: Side = 5
    """Length of a stretch in tokens, for ``kind: span``. They do not overlap; the number masked is exact, up to a whole
    column."""
    tube: bool = False
    """Tokens with three coordinates (time, row, column): the mask is drawn over rows and columns and holds at all times
    (VideoMAE, Tong et al. 2022), so that a place cannot be copied from the moment before. Tokens of a single frame have
    one moment."""
    min_patches: Count = 4
    """Smallest area of a rectangle in tokens (iBOT: ``(min(rows, columns) // 3) ** 2``)."""
    max_share: PositiveShare = 0.5
    """Largest area of a rectangle as a share of the grid (iBOT: 1)."""
    aspect: PositiveShare = 0.3
    """Rectangles have height / width log-uniform in [aspect, 1 / aspect]."""
    exact: bool = False
    """Add single tokens until the wanted count is met (DINOv3); rectangles alone sometimes end a little below."""
    mode: Literal["token", "drop", "input"] = "token"
    """How hidden tokens are hidden: ``token`` puts a mask token in their place (iBOT, SimMIM); ``drop`` leaves them out
    of the encoder (MAE; one ratio and probability 1, so that all rows have as many); ``input`` overwrites their part of
    the view itself with zeros or another sample (group masked model learning, ASiT)."""
    foreign: Share = 0.0
    """Mode ``input``: probability that a row's hidden parts show another sample of the micro-batch instead of zeros."""
    foreign_ratio: PositiveShare | None = None
    """Mode ``input``: share of hidden tokens in those rows (ASiT: 0.3); None: as in the others."""
    shared: bool = False
    """All views of a sample have the same mask (ATST-Frame, whose views hear the same seconds)."""

    def __post_init__(self) -> None:
        if len(set(self.views)) != len(self.views):
            raise UserError(f"masking: a view is named twice: {', '.join(self.views)}")
        check(self, "masking")
        for ratio, variation in self.choices or ():
            if not 0.0 <= ratio - variation <= ratio + variation <= 1.0:
                raise UserError(f"masking: choices must stay in [0, 1], got {ratio} +- {variation}")
        if self.kind not in ("block", "random", "span"):
            raise UserError(f"masking: kind must be 'block', 'random' or 'span', got {self.kind!r}")
        if self.mode not in ("token", "drop", "input"):
            raise UserError(f"masking: mode must be 'token', 'drop' or 'input', got {self.mode!r}")
        if self.mode == "drop" and (self.probability != 1.0 or self.ratio[0] != self.ratio[1] or self.choices):
            raise UserError(
                "masking: mode 'drop' needs as many hidden tokens in every row: set probability: 1 and one ratio, such "
                "as ratio: [0.75, 0.75], and leave choices out"
            )
        if self.mode != "input" and (self.foreign or self.foreign_ratio is not None):
            raise UserError("masking: foreign and foreign_ratio need mode: input")

    @property
    def views(self) -> tuple[str, ...]:
        """All views that get masks."""
        return (self.view, *self.also)

    @property
    def mean_share(self) -> float:
        """Expected share of masked tokens over all rows."""
        if self.choices is not None:
            return sum(ratio for ratio, _ in self.choices) / len(self.choices)
        return self.probability * sum(self.ratio) / 2.0

    def build(self) -> Masking:
        """The mask maker."""
        return Masking(self)


class Masking:
    """Makes the masks of one process's part of a batch. See :class:`Config`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.view = config.view

    @property
    def parts(self) -> dict[str, Masking]:
        """The mask maker of each view."""
        return {view: Masking(replace(self.config, view=view, also=())) for view in self.config.views}

    @property
    def by_place(self) -> bool:
        """Whether the masks depend on where the tokens lie."""
        return self.config.kind == "block"

    def __call__(
        self,
        coordinates: NDArray[Any],
        count: int,
        draws: counter.Draws,
        places: NDArray[np.int64],
        group: int,
        step: int,
    ) -> TokenMask:
        """Masks of a batch.

        Args:
            coordinates: [N, d] place of each token in its grid; or [R, N, d] where it lies elsewhere in every row.
            count: views per sample.
            draws: random numbers of the B samples.
            places: [B] place of each sample in its global batch, 0 to group - 1.
            group: samples in the global batch.
            step: number of the global batch.

        Returns:
            A mask with R = count x B rows, view-major, on the CPU.
        """
        places = np.asarray(places, dtype=np.int64)
        if self.config.tube:
            return self._tubes(coordinates, count, draws, places, group, step)
        drawn = 1 if self.config.shared else count
        tokens = coordinates.shape[-2]
        wanted = self._wanted(tokens, drawn, draws, places, group, step)  # [drawn, B]
        sources = None
        if self.config.foreign:
            sources = self._sources(count, draws)
            if self.config.foreign_ratio is not None:
                shared = sources.reshape(count, -1)[:drawn] >= 0
                wanted = np.where(shared & (wanted > 0), int(tokens * self.config.foreign_ratio), wanted)
        masked = np.zeros((drawn, len(places), tokens), dtype=bool)
        for view in range(drawn):
            samples = np.flatnonzero(wanted[view])
            if len(samples) == 0:
                continue
            pattern = self._pattern(coordinates)
            own = coordinates if coordinates.ndim == 2 else coordinates[view * len(places) + samples]
            stream = f"mask.{self.view}.{view}"
            masked[view, samples] = pattern(own, wanted[view, samples], draws.take(samples), stream)
        whole = masked.repeat(count, axis=0) if drawn < count else masked
        mask = token_mask(whole.reshape(-1, tokens))
        return replace(mask, mode=self.config.mode, sources=None if sources is None else torch.from_numpy(sources))

    def _sources(self, count: int, draws: counter.Draws) -> NDArray[np.int64]:
        """[count x B] row of another sample whose content is shown in hidden parts, -1 for zeros."""
        samples = len(draws.ids)
        parts = []
        for view in range(count):
            chance = draws.uniform(f"mask.{self.view}.{0 if self.config.shared else view}.foreign", 2)
            other = (np.arange(samples) + 1 + (chance[:, 1] * (samples - 1)).astype(np.int64)) % max(samples, 1)
            foreign = (chance[:, 0] < self.config.foreign) & (samples > 1)
            parts.append(np.where(foreign, view * samples + other, -1))
        return np.concatenate(parts)

    def _pattern(self, coordinates: NDArray[Any]) -> Callable[..., NDArray[np.bool_]]:
        if self.config.kind == "random":
            return _random
        if self.config.kind == "span":
            return partial(_spans, length=self.config.span)
        return _nearest if coordinates.ndim == 3 else self._block

    def _tubes(
        self,
        coordinates: NDArray[np.int64],
        count: int,
        draws: counter.Draws,
        places: NDArray[np.int64],
        group: int,
        step: int,
    ) -> TokenMask:
        """A mask of the last two coordinates, repeated along those before."""
        if coordinates.ndim != 2 or coordinates.shape[1] < 2:
            raise UserError(
                "masking: tube needs tokens on a grid with a time, a row and a column: set masking.tube to false"
            )
        cells, tube = np.unique(coordinates[:, -2:], axis=0, return_inverse=True)
        flat = Masking(replace(self.config, tube=False, also=()))(cells, count, draws, places, group, step)
        mask = token_mask(flat.masked.numpy()[:, tube.reshape(-1)])
        return replace(mask, mode=flat.mode, sources=flat.sources)

    def _wanted(
        self, tokens: int, count: int, draws: counter.Draws, places: NDArray[np.int64], group: int, step: int
    ) -> NDArray[np.int64]:
        """[count, B] how many tokens to mask in each row."""
        config = self.config
        jitter = np.stack([draws.uniform(f"mask.{self.view}.{view}.ratio", 2) for view in range(count)])  # [V, B, 2]
        if config.choices is not None:
            choices = np.asarray(config.choices)
            chosen = choices[(jitter[..., 0] * len(choices)).astype(np.int64)]  # [V, B, 2]
            ratio = chosen[..., 0] + (2.0 * jitter[..., 1] - 1.0) * chosen[..., 1]
            return (tokens * ratio).astype(np.int64)
        rows = count * group
        masked_rows = int(rows * config.probability)
        order = counter.permutation(draws.seed, 0, step, f"mask.{self.view}.rows", rows)
        slices = order[np.arange(count)[:, None] * group + places[None]]  # [V, B]
        low, high = config.ratio
        ratio = low + (high - low) * (slices + jitter[..., 0]) / max(1, masked_rows)
        return np.where(slices < masked_rows, (tokens * ratio).astype(np.int64), 0)

    def _block(
        self, coordinates: NDArray[np.int64], wanted: NDArray[np.int64], draws: counter.Draws, stream: str
    ) -> NDArray[np.bool_]:
        """[rows, N] masks made of rectangles."""
        if coordinates.shape[1] != 2:
            raise UserError(
                f"masking: kind 'block' needs tokens on a grid of rows and columns, these have "
                f"{coordinates.shape[1]} coordinates: use kind: random, or tube: true for a grid that has times too"
            )
        height, width = (int(c) + 1 for c in coordinates.max(axis=0))
        first = draws.uniform(f"{stream}.0", 4 * _FIRST_DRAW)
        shape = _Grid(height, width)
        grids = [
            rectangles(self.config, shape, int(n), _numbers(draws, stream, i, first[i])) for i, n in enumerate(wanted)
        ]
        size = (height * width + 7) // 8
        packed = np.frombuffer(b"".join(grid.to_bytes(size, "little") for grid in grids), dtype=np.uint8)
        cells = np.unpackbits(packed.reshape(len(grids), size), axis=1, bitorder="little")
        masks = cells[:, coordinates[:, 0] * width + coordinates[:, 1]].astype(bool)
        return _top_up(masks, wanted, draws, stream) if self.config.exact or self.config.mode == "drop" else masks


def token_mask(masked: NDArray[np.bool_]) -> TokenMask:
    """Indices and weights of masks [R, N]."""
    per_row = masked.sum(axis=1)
    weights = np.repeat(1.0 / np.maximum(per_row, 1), per_row).astype(np.float32)
    return TokenMask(torch.from_numpy(masked), torch.from_numpy(np.flatnonzero(masked)), torch.from_numpy(weights))


def _numbers(draws: counter.Draws, stream: str, row: int, first: NDArray[np.float64]) -> Iterator[float]:
    """Endless uniform numbers of one row: the first ones are given, further ones are drawn when needed."""
    yield from first.tolist()
    part, own = 1, draws.take(np.array([row]))
    while True:
        yield from own.uniform(f"{stream}.{part}", 4 * _FIRST_DRAW)[0].tolist()
        part += 1


class _Grid:
    """Size of a grid, and for each h a column of h cells as bits."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.columns = [0]
        for row in range(height):
            self.columns.append(self.columns[-1] | 1 << (row * width))


def rectangle(config: Config, shape: _Grid, missing: int, numbers: Iterator[float]) -> tuple[int, int, int, int] | None:
    """One try: (top, left, height, width), or None when it does not fit into the grid. Always takes four numbers."""
    area = config.min_patches + next(numbers) * (
        min(missing, config.max_share * shape.width * shape.height) - config.min_patches
    )
    ratio = math.exp((1.0 - 2.0 * next(numbers)) * math.log(config.aspect))
    top, left = next(numbers), next(numbers)
    height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if not (0 < height < shape.height and 0 < width < shape.width):
        return None
    return int(top * (shape.height - height + 1)), int(left * (shape.width - width + 1)), height, width


def rectangles(config: Config, shape: _Grid, wanted: int, numbers: Iterator[float]) -> int:
    """Union of random rectangles, cell (r, c) as bit ``r * width + c`` of an integer.

    The rule of BEiT (Bao et al. 2022, algorithm 1) as DINOv2 has it: area uniform between ``min_patches`` and what is
    still missing, up to ten tries until a rectangle adds something and not too much. Integers of some hundred bits
    make a try a few operations, where arrays would need many microseconds.
    """
    grid, missing, failures = 0, wanted, 0
    while missing > 0 and failures < _ATTEMPTS:
        failures += 1
        found = rectangle(config, shape, missing, numbers)
        if found is None:
            continue
        top, left, height, width = found
        union = grid | ((shape.columns[height] * ((1 << width) - 1)) << (top * shape.width + left))
        new = union.bit_count() - wanted + missing
        if 0 < new <= missing:
            grid, missing, failures = union, missing - new, 0
    return grid


def _random(
    coordinates: NDArray[Any], wanted: NDArray[np.int64], draws: counter.Draws, stream: str
) -> NDArray[np.bool_]:
    """[rows, N] masks with exactly the wanted number of tokens, all places alike."""
    return _top_up(np.zeros((len(wanted), coordinates.shape[-2]), dtype=bool), wanted, draws, stream)


def _spans(
    coordinates: NDArray[Any], wanted: NDArray[np.int64], draws: counter.Draws, stream: str, length: int
) -> NDArray[np.bool_]:
    """[rows, N] masks of whole columns in stretches of some length (one is shorter where the number does not divide).

    The columns left over are dealt out between the stretches, so that none overlap and the count is met. All of it is
    then turned about as if time were a circle, so that every column is as likely as any other.
    """
    if coordinates.ndim != 2:
        raise UserError("masking: kind 'span' needs tokens on a grid with a time; use kind: block for groups of points")
    times = coordinates[:, -1]
    columns = int(times.max()) + 1
    uniforms = draws.uniform(f"{stream}.spans", columns + 2)
    masks = np.zeros((len(wanted), columns), dtype=bool)
    for row, share in enumerate(wanted / len(times)):
        hidden = min(columns, round(float(share) * columns))
        stretches = -(-hidden // length)
        if not stretches:
            continue
        lengths = np.full(stretches, length)
        lengths[int(uniforms[row, -1] * stretches)] -= stretches * length - hidden
        turn = int(uniforms[row, -2] * columns)
        gaps = np.sort((uniforms[row, :stretches] * (columns - hidden + 1)).astype(np.int64))
        for begin, size in zip(gaps + np.cumsum(lengths) - lengths, lengths, strict=True):
            masks[row, (turn + begin + np.arange(size)) % columns] = True
    return masks[:, times]


def _nearest(
    coordinates: NDArray[Any], wanted: NDArray[np.int64], draws: counter.Draws, stream: str
) -> NDArray[np.bool_]:
    """[rows, N] masks of the wanted number of tokens nearest to a random one (Point-BERT's blocks); [rows, N, d]."""
    rows = np.arange(len(wanted))
    middle = (draws.uniform(f"{stream}.middle", 1)[:, 0] * coordinates.shape[1]).astype(np.int64)
    offsets = coordinates - coordinates[rows, middle][:, None]
    order = np.argsort((offsets**2).sum(-1), axis=1, kind="stable")
    masks = np.zeros(order.shape, dtype=bool)
    np.put_along_axis(masks, order, np.arange(order.shape[1])[None] < wanted[:, None], axis=1)
    return masks


def _top_up(
    masks: NDArray[np.bool_], wanted: NDArray[np.int64], draws: counter.Draws, stream: str
) -> NDArray[np.bool_]:
    """Mask further tokens at random until every row has the wanted number."""
    keys = draws.uniform(f"{stream}.single", masks.shape[1]) - masks  # masked ones come first
    ranks = np.empty_like(keys, dtype=np.int64)
    np.put_along_axis(ranks, np.argsort(keys, axis=1, kind="stable"), np.arange(masks.shape[1])[None], axis=1)
    return masks | (ranks < wanted[:, None])
