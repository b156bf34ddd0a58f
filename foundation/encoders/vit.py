"""Vision transformer: a modality's tokenizer in front of the shared trunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foundation.encoders.attention import Backend
from foundation.encoders.blocks import BlockShape, FeedForward, Norm
from foundation.encoders.positions import CoordinatePositions, LearnedPositions, PositionConfig, RotaryPositions
from foundation.encoders.presets import Preset, PresetName, shape
from foundation.encoders.segments import Segment
from foundation.encoders.trunk import TAP_KINDS, Trunk, choose, drop_path_rates, visible
from foundation.errors import UserError
from foundation.modalities.image.tokenizer import Config as ImageTokenizerConfig
from foundation.plugins import Plugin
from foundation.ranges import Depth, Length, Range, ShareBelowOne, Side, check
from foundation.types import Features

TOKENIZER = "foundation.modalities.{name}.tokenizer"
PACKED_TOKENS = 8
"""Tokens for each number of the width up to which packing was faster on the CPU measured: it reads the weights and adds
to their gradients once for all views, and copies the tokens of every block for it."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A vision transformer."""

    preset: PresetName | None = None
    """Published shape: tiny, small, base, large, giant (DINOv2, SwiGLU), or nano (ours: width 128, depth 6, 4 heads).
    None: width, depth and heads; small where none of them is given."""

    width: Side | None = None
    """Width of a token; None takes the preset's."""

    depth: Depth | None = None
    """Number of blocks; None takes the preset's."""

    heads: Annotated[int, Range(1, 1024)] | None = None
    """Attention heads; None takes the preset's."""

    tokenizer: Annotated[Any, Plugin(TOKENIZER)] = field(default_factory=ImageTokenizerConfig)
    """How the input becomes tokens: the tokenizer of a modality."""

    size: Annotated[tuple[Side, ...], Length(1, 3)] = (224, 224)
    """Input size at which learned positions are trained, one number for each axis of the input (an image: height,
    width; a clip: frames, height, width); any other size is interpolated."""

    position: PositionConfig = field(default_factory=PositionConfig)
    """Learned or rotary positions."""

    class_token: bool = True
    """A class token in front of the patches; without one the mean of the patches stands in for it (ATST-Frame)."""

    registers: Annotated[int, Range(0, 1024)] = 0
    """Register tokens (Darcet et al. 2024): extra tokens without a position that hold what belongs to no place."""

    ffn: FeedForward | None = None
    """Feed-forward part: ``mlp``, ``swiglu`` (DINOv2: hidden width cut to two thirds, rounded up to a multiple of 8)
    or ``swiglu64`` (DINOv3: multiple of 64); None takes the preset's, else mlp."""

    mlp_ratio: Annotated[float, Range(0, 64, above=True)] = 4.0
    """Hidden width of the feed-forward part over the width of a token."""

    layer_scale: Annotated[float, Range(0, 1e3, above=True)] | None = None
    """Start value of the trained factor on each residual (DINOv2: 1e-5); None for no such factor."""

    drop_path: ShareBelowOne = 0.0
    """Share of rows that skip a residual in training."""

    drop_path_schedule: Literal["uniform", "linear"] = "uniform"
    """``uniform``: the same in each block (DINOv2). ``linear``: rising from 0 to ``drop_path`` (DINO, iBOT)."""

    norm: Norm = "layernorm"
    """``layernorm`` or ``rmsnorm``."""

    norm_eps: Annotated[float, Range(1e-20, 1)] = 1e-6
    """Small number inside the norms (DINOv3 uses 1e-5 with rmsnorm)."""

    separate_class_norm: bool = False
    """Own final norm for class and register tokens (DINOv3: untie_cls_and_patch_norms)."""

    qkv_bias: bool = True
    """Bias of queries, keys and values."""

    zero_key_bias: bool = False
    """Hold the keys' bias at 0 (DINOv3-7B: mask_k_bias)."""

    token_std: Annotated[float, Range(0, 10)] = 0.02
    """Standard deviation of class and register tokens at the start (DINO: 0.02; DINOv2: 1e-6)."""

    attention: Backend = "auto"
    """``auto``, ``sdpa`` or ``xformers``; auto takes xformers for several resolutions on a GPU that has it."""

    packing: Literal["auto", "always", "never"] = "auto"
    """Whether views of several resolutions run as one matrix of tokens. Same result; ``auto``: always on a GPU, and on
    a CPU for up to 8 x width tokens (measured: 2 to 15 % faster below, up to 5 % slower far above)."""

    def __post_init__(self) -> None:
        if not (hasattr(self.tokenizer, "build") and hasattr(self.tokenizer, "coordinates")):
            raise UserError(
                f"encoder.tokenizer is {self.tokenizer!r}: it must be the Config of a modality's tokenizer, "
                "such as foundation.modalities.image.tokenizer.Config(patch_size=16)"
            )
        object.__setattr__(self, "size", tuple(int(side) for side in self.size))
        check(self, "encoder")
        shape = self.shape
        if shape.width % shape.heads:
            raise UserError(
                f"encoder.width {shape.width} is not a multiple of encoder.heads {shape.heads}: "
                "each head gets an equal share of the width"
            )
        if self.position.kind == "rotary" and shape.width // shape.heads % 4:
            share = shape.width // shape.heads
            raise UserError(f"encoder.width / encoder.heads is {share}: rotary positions need a multiple of 4")
        kind, free = self.position.kind, self.places is not None
        if free and kind in ("learned", "rotary"):
            raise UserError(f"encoder.position.kind is {kind!r}, but {self.modality} tokens lie on no grid: use 'mlp'")
        if kind == "mlp" and not free:
            raise UserError(f"encoder.position.kind is 'mlp', but {self.modality} tokens lie on a grid: use 'learned'")
        if kind == "learned":
            self.tokenizer.coordinates(self.size)

    @property
    def shape(self) -> Preset:
        """Width, depth, heads and feed-forward kind: the preset's, with what is given in its place."""
        return shape(self.preset, {"width": self.width, "depth": self.depth, "heads": self.heads}, self.ffn)

    @property
    def modality(self) -> str:
        """Modality of the tokenizer, such as ``image``."""
        parts = type(self.tokenizer).__module__.split(".")
        return parts[-2] if len(parts) > 1 else parts[0]

    def coordinates(self, size: tuple[int, ...]) -> NDArray[np.int64]:
        """Place of each patch token of an input of that size, [N, d]; see the tokenizer."""
        return self.tokenizer.coordinates(size)

    @property
    def places(self) -> Callable[[Tensor], Tensor] | None:
        """Where tokens lie that have other places in every sample: [R, ...] -> [R, N, d]; None for those on a grid."""
        return getattr(self.tokenizer, "places", None)

    def build(self) -> Encoder:
        """Make the encoder, initialised."""
        return Encoder(self)


class Encoder(nn.Module):
    """Tokenizer and trunk.

    A token sequence is: class token, register tokens, patch tokens. Masked patches are replaced by the mask token
    before positions are added; registers get no position (DINOv2).

    Attributes:
        config: what it was built from.
        modality: such as ``image``.
        width: width D of a token.
        depth: number of blocks.
        supports_masks: hidden patches are possible.
        supports_wanted: ``forward`` takes ``wanted``.
        supports_drop: ``forward`` takes ``drop``.
    """

    supports_masks = True
    supports_wanted = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        shape = config.shape
        self.config = config
        self.modality = config.modality
        self.width, self.depth, self.heads = shape.width, shape.depth, shape.heads
        self.prefix = config.class_token + config.registers
        self.supports_drop = config.position.kind != "rotary"
        self.tokenizer = config.tokenizer.build(self.width)
        if config.class_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, self.width))
        else:
            self.register_parameter("cls_token", None)
        self.mask_token = nn.Parameter(torch.empty(1, self.width))
        if config.registers:
            self.register_tokens = nn.Parameter(torch.empty(1, config.registers, self.width))
        else:
            self.register_parameter("register_tokens", None)
        self.positions: LearnedPositions | RotaryPositions | CoordinatePositions | None = None
        if config.position.kind == "learned":
            places = config.coordinates(config.size)
            grid = tuple(int(last) + 1 for last in places.max(axis=0))
            self.positions = LearnedPositions(self.width, grid, config.position)
        elif config.position.kind == "rotary":
            self.positions = RotaryPositions(self.width // self.heads, self.prefix, config.position)
        elif config.position.kind == "mlp":
            self.positions = CoordinatePositions(self.width, config.tokenizer.dimensions, config.position)
        block = BlockShape(
            width=self.width,
            heads=self.heads,
            mlp_ratio=config.mlp_ratio,
            ffn=shape.ffn,
            norm=config.norm,
            norm_eps=config.norm_eps,
            qkv_bias=config.qkv_bias,
            zero_key_bias=config.zero_key_bias,
            layer_scale=config.layer_scale,
            backend=config.attention,
        )
        rates = drop_path_rates(config.drop_path, self.depth, config.drop_path_schedule)
        self.trunk = Trunk(block, rates, prefix=self.prefix, separate_class_norm=config.separate_class_norm)
        self._reset_own()
        self.trunk.reset_parameters()

    def forward(
        self,
        views: Sequence[Tensor],
        masks: Sequence[Tensor | None] | None = None,
        taps: Sequence[str] = (),
        *,
        generator: torch.Generator | None = None,
        wanted: Sequence[Tensor | None] | None = None,
        drop: Sequence[int | None] | None = None,
    ) -> list[Features]:
        """Encode views of any sizes, packed into one pass where that is faster.

        Args:
            views: for images [R_i, channels, H_i, W_i] each.
            masks: for each view [R_i, N_i] bool, True where the patch is hidden; or None.
            taps: what to return beside the features, see ``tap_names``.
            generator: source of drop path and position augmentation in training; torch's own generator of the device
                when None.
            wanted: for each view the places of the patches that are wanted, [M_i] distinct int64 in the flattened
                [R_i * N_i]; None: all are. The last block computes these, class and register tokens only, and
                ``patches`` is [M_i, D], in the order of the places.
            drop: for each view the number of hidden patches in each of its rows, if those are left out of the trunk; or
                None for mask tokens in their place. At the places left out, ``patches`` holds the mask token with its
                position, as a decoder wants it (MAE); taps hold the visible ones only.

        Returns:
            Features of each view. Taps: ``block.i`` tokens after block i [R, 1 + registers + N, D], not normed;
            ``queries.i``, ``keys.i``, ``values.i`` of all heads side by side, same shape, before rotation;
            ``attention.i`` [R, heads, 1 + registers + N], softmax weights of the class token.

        Raises:
            UserError: unknown tap, size that does not fit the patches, mask of the wrong shape.
        """
        self.check_taps(taps)
        views = list(views)
        if not views:
            return []
        masks = [None] * len(views) if masks is None else list(masks)
        if len(masks) != len(views):
            raise UserError(f"{len(views)} views but {len(masks)} masks: give one for each view (None for no mask)")
        rows, grids, valids = [], [], []
        left_out: dict[int, tuple[Tensor, Tensor]] = {}  # by view: all tokens, places of the visible ones
        for place, (view, mask) in enumerate(zip(views, masks, strict=True)):
            tokens, grid, valid = self.embed(view, mask)
            hidden = None if drop is None else drop[place]
            if hidden is not None and mask is not None:
                left_out[place] = tokens, visible(mask, hidden, self.prefix)
                tokens = tokens.gather(1, left_out[place][1].expand(-1, -1, self.width))
            rows.append(tokens)
            grids.append(grid)
            valids.append(valid)
        choice = [None] * len(views) if wanted is None else list(wanted)
        inside = [  # what the trunk may leave out
            chosen if chosen is not None and self._may_leave_out(chosen, place in left_out) else None
            for place, chosen in enumerate(choice)
        ]
        groups = [range(len(rows))] if self._pack(rows) else [range(i, i + 1) for i in range(len(rows))]
        prefixes: list[Tensor] = []
        patches: list[Tensor] = []
        tapped: list[dict[str, Tensor]] = []
        for group in groups:
            some, places = [rows[i] for i in group], [grids[i] for i in group]
            read = [inside[i] for i in group]
            results = self.trunk(some, self._segments(some, places, generator), taps, generator, read)
            prefixes.extend(results[0])
            patches.extend(results[1])
            tapped.extend(results[2])
        first = int(self.config.class_token)
        pooled = [prefix[:, 0] if first else patch.mean(1) for prefix, patch in zip(prefixes, patches, strict=True)]
        for place, (tokens, kept) in left_out.items():
            if inside[place] is None:
                where = (kept[:, self.prefix :] - self.prefix).expand(-1, -1, self.width)
                whole_view = tokens[:, self.prefix :].to(patches[place].dtype)
                patches[place] = whole_view.scatter(1, where, patches[place])
        for place, (chosen, already) in enumerate(zip(choice, inside, strict=True)):
            patches[place] = choose(patches[place], chosen if already is None else None)
        return [
            Features(cls=cls, registers=prefix[:, first:], patches=patch, taps=taps_of_view, valid=valid)
            for cls, prefix, patch, taps_of_view, valid in zip(pooled, prefixes, patches, tapped, valids, strict=True)
        ]

    def embed(self, view: Tensor, mask: Tensor | None = None) -> tuple[Tensor, tuple[int, ...] | Tensor, Tensor | None]:
        """Tokens of one view as they enter the first block.

        Args:
            view: as in ``forward``.
            mask: as in ``forward``.

        Returns:
            [R, 1 + registers + N, D]; the grid, or the places of tokens that lie on none [R, N, d]; validity as the
            tokenizer gives it.
        """
        tokens, grid, valid = self.tokenizer(view)
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

    def _may_leave_out(self, wanted: Tensor, hidden_left_out: bool) -> bool:
        """Whether patches that are not wanted may be missing from the trunk's result: not where their mean stands in
        for a class token, nor where the wanted ones are still to be put between hidden ones."""
        return self.config.class_token and not (hidden_left_out and len(wanted))

    def _pack(self, rows: Sequence[Tensor]) -> bool:
        """Whether these views run together, see ``Config.packing``."""
        if self.config.packing != "auto" or rows[0].device.type != "cpu":
            return self.config.packing != "never"
        return sum(view.shape[0] * view.shape[1] for view in rows) <= PACKED_TOKENS * self.width

    def _segments(
        self, rows: Sequence[Tensor], grids: Sequence[Any], generator: torch.Generator | None
    ) -> list[Segment] | Callable[[], list[Segment]]:
        positions = self.positions
        if not isinstance(positions, RotaryPositions):
            return [Segment(view.shape[0], view.shape[1]) for view in rows]

        def make() -> list[Segment]:
            segments = []
            for view, grid in zip(rows, grids, strict=True):
                rotation = positions(grid, view.device, generator)
                segments.append(Segment(view.shape[0], view.shape[1], rotation))
            return segments

        again = self.training and positions.config.augmented and positions.config.redraw == "block"
        return make if again else make()

    def tap_names(self) -> list[str]:
        """Everything that can be tapped; attention is that of the class token, where there is one."""
        kinds = [kind for kind in TAP_KINDS if self.config.class_token or kind != "attention"]
        return [f"{kind}.{number}" for kind in kinds for number in range(self.depth)]

    def check_taps(self, taps: Sequence[str]) -> None:
        """Refuse taps that there are not.

        Raises:
            UserError: names the unknown taps and those there are.
        """
        if not taps:
            return
        unknown = [tap for tap in taps if tap not in self.tap_names()]
        if unknown:
            kinds = dict.fromkeys(name.partition(".")[0] for name in self.tap_names())
            there = ", ".join(f"{kind}.0 to {kind}.{self.depth - 1}" for kind in kinds)
            raise UserError(f"unknown tap {', '.join(map(repr, unknown))}: this encoder has {there}")

    def layer_of(self, name: str) -> int:
        """Layer of a parameter, for layer-wise decay of the learning rate.

        Args:
            name: as ``named_parameters`` of this encoder gives it.

        Returns:
            0 for tokenizer, positions and the class, mask and register tokens; i + 1 for block i; depth + 1 for the
            rest.
        """
        if name.startswith("trunk.blocks."):
            return int(name.split(".")[2]) + 1
        in_front = ("tokenizer", "positions", "cls_token", "mask_token", "register_tokens")
        return 0 if name.partition(".")[0] in in_front else self.depth + 1

    def uses_all_parameters(self, masked: bool) -> bool:
        """Whether every parameter takes part in every step; data parallel training looks for those that rest.

        Args:
            masked: whether views come with masks.
        """
        return masked and not self.config.separate_class_norm and self.config.class_token

    @property
    def flops_per_token(self) -> int:
        """Floating point operations of the trunk's linear layers for one token, forward (attention not included)."""
        return self.trunk.flops([(1, 1)]) - 4 * self.width * self.depth

    def flops(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Estimated floating point operations of the matrix products of a forward pass.

        Args:
            shapes: of the views, for images (R, channels, H, W).

        Returns:
            Operations (a multiplication and an addition count as two); backward takes about twice as many again.
        """
        total, segments = 0, []
        for rows, _, *size in shapes:
            patches = len(self.config.coordinates(tuple(size)))
            segments.append((rows, self.prefix + patches))
            total += self.tokenizer.flops(rows * patches)
        return total + self.trunk.flops(segments)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise everything again, in place (needed after building on the meta device)."""
        self.tokenizer.reset_parameters()
        if isinstance(self.positions, LearnedPositions | CoordinatePositions):
            self.positions.reset_parameters()
        self._reset_own()
        self.trunk.reset_parameters()

    def _reset_own(self) -> None:
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=self.config.token_std)
        nn.init.zeros_(self.mask_token)
        if self.register_tokens is not None:
            nn.init.normal_(self.register_tokens, std=self.config.token_std)
