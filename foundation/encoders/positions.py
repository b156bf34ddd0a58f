"""Where a token is: learned absolute positions, axial rotary embedding, and a network of free coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation.bicubic import resize_matrix
from foundation.encoders.rotation import Rotation
from foundation.errors import UserError
from foundation.linear import Linear
from foundation.ranges import Positive, Range, Side, check

_CACHE_ENTRIES = 64
_WORDS = {
    "fit": ("resize", "cut"),
    "frequencies": ("pair", "neighbour"),
    "redraw": ("forward", "block"),
    "dtype": ("float32", "bfloat16"),
}


@dataclass(frozen=True, kw_only=True)
class PositionConfig:
    """Position embedding of an encoder. Fields below ``antialias`` concern ``rotary`` only."""

    kind: Literal["learned", "rotary", "mlp", "none"] = "learned"
    """``learned``: one trained vector for each place of the trained grid, added to the tokens (ViT, DINO, DINOv2).
    ``rotary``: queries and keys of patch tokens are rotated by angles of their place (axial RoPE, DINOv3).
    ``mlp``: a small network of each token's coordinates, added to the tokens (Point-MAE); for tokenizers whose tokens
    lie elsewhere in every sample, such as groups of points."""

    hidden: Side = 128
    """Mlp: width of the hidden layer (Point-MAE: 128)."""

    every_block: bool = False
    """Mlp: added again in front of every further block, as the released Point-MAE does it."""

    offset: Annotated[float, Range(0, 1)] = 0.0
    """Learned, other grids than the trained one: 0 resizes to the exact grid; DINOv2 was trained with 0.1, added to
    the wanted grid before the scale factor is formed, which shifts the sampling places a little."""

    fit: Literal["resize", "cut"] = "resize"
    """Learned, other grids than the trained one: ``resize``, or ``cut``: a smaller grid takes the first places of each
    axis, so that a token keeps its position in time however long the recording (ATST); a larger one is resized."""

    antialias: bool = False
    """Learned: anti-aliased resize (the released DINOv2 models with registers use it)."""

    base: Annotated[float, Range(0, 1e9, above=True)] | None = 100.0
    """Rotary: periods are ``base ** (2 j / (head_width / 2))``. None: use ``min_period`` and ``max_period``."""

    min_period: Positive | None = None
    """Rotary: shortest period, in units of half a side of the image; only without ``base``."""

    max_period: Positive | None = None
    """Rotary: longest period."""

    factorised: bool = False
    """Learned, grids of three axes (time, row, column): a table for the places of a frame and a table for the times,
    added to each other (starts at 0), in place of one for all places of all times."""

    normalise: Literal["separate", "max", "min", "none"] = "separate"
    """Rotary: patch centres are divided by their own side, by the longer, or by the shorter side. ``none``: places are
    counted in tokens, and a token is turned by place / period (RoFormer; V-JEPA 2, with base 10000)."""

    frequencies: Literal["pair", "neighbour"] = "pair"
    """Rotary: ``pair``: both numbers of a pair turn by one frequency, which is a rotation. ``neighbour``: each by
    another one, which is none, but what the released V-JEPA 2 was trained with."""

    shift: Annotated[float, Range(0, 1e3)] | None = None
    """Rotary, in training: coordinates move by a uniform draw in [-shift, shift], for each axis."""

    jitter: Annotated[float, Range(1, 1e3)] | None = None
    """Rotary, in training: coordinates are multiplied by a log-uniform draw in [1/jitter, jitter], for each axis."""

    rescale: Annotated[float, Range(1, 1e3)] | None = None
    """Rotary, in training: as ``jitter``, with one draw for both axes (DINOv3-7B: 2)."""

    redraw: Literal["forward", "block"] = "forward"
    """Rotary, in training: draw shift, jitter and rescale once for a forward pass or anew in each block (DINOv3)."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Rotary: number format of periods, angles and rotation (DINOv3 trains in bfloat16, releases use float32)."""

    def __post_init__(self) -> None:
        if self.kind not in ("learned", "rotary", "mlp", "none"):
            raise UserError(f"position.kind is {self.kind!r}: it must be 'learned', 'rotary', 'mlp' or 'none'")
        check(self, "position")
        if self.every_block and self.kind != "mlp":
            raise UserError(f"position.every_block is for position.kind 'mlp', and kind is {self.kind!r}")
        by_range = self.min_period is not None and self.max_period is not None
        if self.kind == "rotary" and (self.base is None) != by_range:
            raise UserError(
                f"position.base is {self.base}, min_period {self.min_period}, max_period {self.max_period}: "
                "give either base, or (with base: null) both periods"
            )
        if self.normalise not in ("separate", "max", "min", "none"):
            raise UserError(f"position.normalise is {self.normalise!r}: it must be 'separate', 'max', 'min' or 'none'")
        for name, words in _WORDS.items():
            if getattr(self, name) not in words:
                raise UserError(f"position.{name} is {getattr(self, name)!r}: it must be {words[0]!r} or {words[1]!r}")

    @property
    def augmented(self) -> bool:
        """Whether rotary coordinates are perturbed in training."""
        return self.kind == "rotary" and any(x is not None for x in (self.shift, self.jitter, self.rescale))


class LearnedPositions(nn.Module):
    """One trained vector for the class token and each place of a grid, resized bicubically to any other grid.

    A bicubic resize is linear and acts on each axis alone, so it is done by small matrices (cached for each grid):
    quick, and with a gradient that is the same in every run, which the built-in resize does not promise on a GPU.

    Args:
        width: width D of a token.
        grid: the vectors are trained at: (rows, columns), (times, rows, columns), or any other number of axes.
        config: how to resize; whether the first of three or more axes has a table of its own (``factorised``).
    """

    def __init__(self, width: int, grid: tuple[int, ...], config: PositionConfig) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.config = config
        self.split = config.factorised and len(grid) > 2
        self.table = nn.Parameter(torch.empty(1, 1 + math.prod(grid[self.split :]), width))
        if self.split:
            self.first_axis = nn.Parameter(torch.empty(1, grid[0], width))
        else:
            self.register_parameter("first_axis", None)
        self._matrices: dict[tuple[int, int, torch.device], Tensor] = {}
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise again, in place."""
        nn.init.trunc_normal_(self.table, std=0.02)
        if self.first_axis is not None:
            nn.init.zeros_(self.first_axis)

    def forward(self, grid: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Positions for a grid.

        Args:
            grid: as many axes as the trained one.

        Returns:
            position of the class token [1, 1, D], and of the patches [1, N, D], last axis fastest.

        Raises:
            UserError: another number of axes than trained.
        """
        grid = tuple(grid)
        if len(grid) != len(self.grid):
            raise UserError(
                f"learned positions were made for {len(self.grid)} axes {self.grid}, but the view has {len(grid)}: "
                "give encoder.size with one number for each axis of the input"
            )
        cls, patches = self.table[:, :1], self.table[:, 1:]
        places = self._resized(patches, self.grid[self.split :], grid[self.split :])
        if self.first_axis is None:
            return cls, places
        times = self._resized(self.first_axis, self.grid[:1], grid[:1])
        return cls, (times[:, :, None] + places[:, None]).flatten(1, 2)

    def at(self, grid: tuple[int, ...]) -> dict[str, Tensor]:
        """Tables of the same positions, resized to be trained at another grid of as many axes, by their names."""
        start = int(self.split)
        places = self._resized(self.table[:, 1:], self.grid[start:], tuple(grid[start:]))
        tables = {"table": torch.cat((self.table[:, :1], places), dim=1)}
        if self.first_axis is not None:
            tables["first_axis"] = self._resized(self.first_axis, self.grid[:1], tuple(grid[:1]))
        return {name: table.detach() for name, table in tables.items()}

    def _resized(self, table: Tensor, old: tuple[int, ...], new: tuple[int, ...]) -> Tensor:
        """[1, N old, D] -> [1, N new, D]."""
        if old == new:
            return table
        if self.config.fit == "cut" and all(wanted <= there for there, wanted in zip(old, new, strict=True)):
            places = table.view(*old, -1)[tuple(slice(side) for side in new)]
            return places.reshape(1, math.prod(new), -1)
        with torch.autocast(table.device.type, enabled=False):
            resized = table.float().view(*old, -1)
            matrices = [self._matrix(*pair, table.device) for pair in zip(old, new, strict=True)]
            if len(matrices) == 2:
                resized = torch.einsum("hH,HWd,wW->hwd", matrices[0], resized, matrices[1])
            else:
                for axis, matrix in enumerate(matrices):
                    resized = torch.tensordot(matrix, resized, dims=([1], [axis])).movedim(0, axis)
        return resized.reshape(1, math.prod(new), -1).to(table.dtype)

    def _matrix(self, old: int, new: int, device: torch.device) -> Tensor:
        key = (old, new, device)
        if key not in self._matrices:
            if len(self._matrices) >= _CACHE_ENTRIES:
                self._matrices.clear()
            matrix = resize_matrix(old, new, offset=self.config.offset, antialias=self.config.antialias)
            self._matrices[key] = matrix.to(device)
        return self._matrices[key]


class CoordinatePositions(nn.Module):
    """Positions of tokens that lie elsewhere in every sample: linear, GELU, linear of the coordinates (Point-MAE).

    Args:
        width: width D of a token.
        dimensions: coordinates d of a token.
        config: hidden width.
    """

    def __init__(self, width: int, dimensions: int, config: PositionConfig) -> None:
        super().__init__()
        self.every_block = config.every_block
        self.network = nn.Sequential(Linear(dimensions, config.hidden), nn.GELU(), Linear(config.hidden, width))
        self.reset_parameters()

    def forward(self, places: Tensor) -> Tensor:
        """Positions [R, N, D] of tokens at places [R, N, d]."""
        return self.network(places)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise again, in place.

        With torch's own rule for linear layers: places of a few tenths then differ about as much as tokens do. With
        weights of 0.02, the usual ones of a transformer, positions would begin a hundred times smaller.
        """
        for layer in self.network:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()


class RotaryPositions(nn.Module):
    """Axial rotary embedding of patch centres (DINOv3). Has no parameters and no buffers.

    Each of the d axes of a grid gets an equal share of the pairs of a head; pairs that are left over (a head width that
    is no multiple of 2 d) are not rotated.

    Args:
        head_width: width of one attention head, a multiple of 4.
        prefix: class and register tokens in front of the patches.
        config: periods, normalisation and augmentation.
    """

    def __init__(self, head_width: int, prefix: int, config: PositionConfig) -> None:
        super().__init__()
        if head_width % 4:
            raise UserError(
                f"rotary positions need a head width that is a multiple of 4, but width / heads = {head_width}"
            )
        self.head_width = head_width
        self.prefix = prefix
        self.config = config
        self.dtype = torch.float32 if config.dtype == "float32" else torch.bfloat16
        self._cache: dict[tuple[tuple[int, ...], torch.device], Rotation] = {}

    def forward(
        self, grid: tuple[int, ...], device: torch.device, generator: torch.Generator | None = None
    ) -> Rotation:
        """Tables for a grid; in training with augmentation, drawn anew at each call.

        Args:
            grid: (rows, columns), or any other number of axes.
            device: where the tables are needed.
            generator: source of the draws; torch's own generator of the device when None.
        """
        if self.training and self.config.augmented:
            return self._with_prefix(*self.tables(grid, device, self.draw(device, generator, len(grid))))
        key = (grid, device)
        if key not in self._cache:
            if len(self._cache) >= _CACHE_ENTRIES:
                self._cache.clear()
            with torch.inference_mode(False), torch.no_grad():
                self._cache[key] = self._with_prefix(*self.tables(grid, device))
        return self._cache[key]

    def periods(self, device: torch.device | str = "cpu", axes: int = 2) -> Tensor:
        """Periods of the angles of one axis, [head_width / (2 axes), rounded down], in half sides of the image.

        Raises:
            UserError: a head too narrow for that many axes.
        """
        count, config = self.head_width // (2 * axes), self.config
        if count < 1:
            raise UserError(f"rotary positions of {axes} axes need width / heads >= {2 * axes}, not {self.head_width}")
        if config.base is not None:
            return config.base ** (torch.arange(count, device=device, dtype=self.dtype) / count)
        assert config.min_period is not None and config.max_period is not None
        ratio = config.max_period / config.min_period
        # From both ends, in the given precision: the last bit of torch.linspace in bfloat16 depends on torch's version.
        upward = torch.arange(count, device=device, dtype=self.dtype) * torch.tensor(1 / max(count - 1, 1)).to(
            self.dtype
        )
        steps = torch.where(torch.arange(count, device=device) < count / 2, upward, 1 - upward.flip(0))
        return ratio**steps / ratio * config.max_period

    def draw(
        self, device: torch.device, generator: torch.Generator | None = None, axes: int = 2
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw an augmentation.

        Returns:
            shift [axes], jitter [axes] (of images: y, x) and rescale [1]; 0 and 1 where the config has none.
        """

        def uniform(count: int, limit: float) -> Tensor:
            where = generator.device if generator is not None else device
            draws = torch.rand(count, generator=generator, device=where, dtype=torch.float32)
            return ((2 * draws - 1) * limit).to(device, self.dtype)

        config = self.config
        shift = uniform(axes, config.shift) if config.shift else torch.zeros(axes, device=device, dtype=self.dtype)
        jitter = uniform(axes, math.log(config.jitter or 1.0)).exp()
        rescale = uniform(1, math.log(config.rescale or 1.0)).exp()
        return shift, jitter, rescale

    def tables(
        self,
        grid: tuple[int, ...],
        device: torch.device | str,
        augmentation: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Tables of the patches.

        Args:
            grid: (rows, columns), or any other number of axes.
            device: where to compute.
            augmentation: shift [axes], jitter [axes] and rescale [1], as ``draw`` gives them.

        Returns:
            sin and cos, each [N, head_width], last axis of the grid fastest.
        """
        if self.config.normalise == "none":
            turn, axes = 1.0, [torch.arange(side, device=device, dtype=self.dtype) for side in grid]
        else:
            # Sides of different kinds (seconds and pixels) have no longest: only the last two are compared.
            plane = grid[-2:]
            sides = {"separate": plane, "max": (max(plane),) * 2, "min": (min(plane),) * 2}[self.config.normalise]
            divisors = [*grid[:-2], *sides][-len(grid) :]
            centres = (torch.arange(0.5, side, device=device, dtype=self.dtype) for side in grid)
            turn = 2 * math.pi
            axes = [2 * (centre / divisor) - 1 for centre, divisor in zip(centres, divisors, strict=True)]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
        if augmentation is not None:
            shift, jitter, rescale = augmentation
            places = (places + shift) * jitter * rescale
        angles = turn * places[:, :, None] / self.periods(device, len(grid))
        angles = angles.flatten(1)
        angles = F.pad(angles, (0, self.head_width // 2 - angles.shape[1])).tile(2)
        if self.config.frequencies == "neighbour":
            angles = angles[:, self._neighbours(len(grid))]
        return angles.sin(), angles.cos()

    def _neighbours(self, axes: int) -> Tensor:
        """[head_width] which of our columns has the frequency of each number in the released V-JEPA 2.

        There the pairs of an axis are neighbours (2 k, 2 k + 1), and its table is laid out ``[f, f]``: number m of the
        axis has frequency m mod count. Here pair k of an axis lies at place k and half a head further.
        """
        half, count = self.head_width // 2, self.head_width // (2 * axes)
        starts = torch.arange(axes)[:, None] * count
        picks = [(starts + (2 * torch.arange(count) + member) % count).flatten() for member in (0, 1)]
        rest = torch.arange(axes * count, half)
        return torch.cat([picks[0], rest, picks[1], rest])

    def _with_prefix(self, sin: Tensor, cos: Tensor) -> Rotation:
        """Put angle 0 in front for class and register tokens, so that no token has to be cut out and joined again."""
        return Rotation(F.pad(sin, (0, 0, self.prefix, 0), value=0.0), F.pad(cos, (0, 0, self.prefix, 0), value=1.0))
