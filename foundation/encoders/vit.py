"""Vision transformer: a modality's tokenizer in front of the shared trunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation import planned
from foundation.encoders import elastic
from foundation.encoders.attention import Backend
from foundation.encoders.blocks import TAP_KINDS, BlockShape, FeedForward, Norm
from foundation.encoders.embedding import Embedding, both_valid
from foundation.encoders.left_out import LeftOut
from foundation.encoders.positions import CoordinatePositions, LearnedPositions, PositionConfig
from foundation.encoders.presets import Preset, PresetName, shape
from foundation.encoders.protocol import Encoder as EncoderProtocol
from foundation.encoders.protocol import EncoderConfig, EncoderInput, Inputs, inputs_of
from foundation.encoders.segments import choose, pool
from foundation.encoders.tokenizers import ScatteredTokenizerConfig, StemmedTokenizerConfig, TokenizerConfig
from foundation.encoders.trunk import Trunk, drop_path_rates
from foundation.errors import UserError
from foundation.modalities.grids import GridTokenizer
from foundation.modalities.image.tokenizer import Config as ImageTokenizerConfig
from foundation.plugins import Plugin
from foundation.ranges import Depth, Length, Range, ShareBelowOne, Side, check
from foundation.types import Features

TOKENIZER = "foundation.modalities.{name}.tokenizer"
PACKED_TOKENS = 8
"""Tokens for each number of the width up to which packing was faster on the CPU measured: it reads the weights and adds
to their gradients once for all views, and copies the tokens of every block for it."""


@dataclass(frozen=True, kw_only=True)
class Config(EncoderConfig):
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
    """How views of several resolutions attend. ``xformers``, ``varlen`` and ``flex``: all in one call (the first two on
    a GPU; varlen computes float32 by sdpa); ``sdpa``: torch's kernel for each resolution; ``explicit``: matrix
    products; ``auto``: as measured (``foundation bench attention`` measures your machine)."""

    packing: Literal["auto", "always", "never"] = "auto"
    """Whether views of several resolutions run as one matrix of tokens. Same result; ``auto``: always on a GPU, and on
    a CPU for up to 8 x width tokens (measured: 2 to 15 % faster below, up to 5 % slower far above)."""

    def __post_init__(self) -> None:
        if not isinstance(self.tokenizer, TokenizerConfig):
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
        kind, free = self.position.kind, self.coordinates_of is not None
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
    def coordinates_of(self) -> Callable[[Tensor], Tensor] | None:
        """Where tokens lie that have other places in every sample: [R, ...] -> [R, N, d]; None for those on a grid."""
        return self.tokenizer.coordinates_of if isinstance(self.tokenizer, ScatteredTokenizerConfig) else None

    @property
    def known_width(self) -> int:
        """Width of a token."""
        return self.shape.width

    def of_size(self, size: elastic.SubNetwork) -> Config:
        """Of the stand-alone encoder of a sub-network: heads as wide as here, and as wide a stem."""
        full, parts = self.shape, self.tokenizer
        if isinstance(parts, StemmedTokenizerConfig):
            parts = parts.with_stem_of(full.width)
        width, depth, heads = size.width, size.depths[0], size.width * full.heads // full.width
        return replace(self, preset=None, width=width, depth=depth, heads=heads, ffn=full.ffn, tokenizer=parts)

    def build(self) -> Encoder:
        """Make the encoder, initialised."""
        return Encoder(self)


class Encoder(Embedding):
    """Tokenizer and trunk.

    A token sequence is: class token, register tokens, patch tokens. Masked patches are replaced by the mask token
    before positions are added; registers get no position (DINOv2).

    Attributes:
        config: what it was built from.
        modality: such as ``image``.
        width: width D of a token.
        depth: number of blocks.
        prefix: class and register tokens in front of the patch tokens.
    """

    def __init__(self, config: Config) -> None:
        shape = config.shape
        super().__init__(
            config.tokenizer,
            width=shape.width,
            heads=shape.heads,
            size=config.size,
            position=config.position,
            class_token=config.class_token,
            registers=config.registers,
            token_std=config.token_std,
        )
        self.config = config
        self.modality = config.modality
        self.depth, self.heads = shape.depth, shape.heads
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
        self.reset_tokens()
        self.trunk.reset_parameters()

    def forward(
        self, inputs: Inputs, taps: Sequence[str] = (), *, generator: torch.Generator | None = None
    ) -> list[Features]:
        """Encode views of any sizes, packed into one pass where that is faster.

        Args:
            inputs: for images tensors [R_i, channels, H_i, W_i], or inputs with such a view. Where some patches are
                wanted, the last block computes these, class and register tokens only.
            taps: what to return beside the features, see ``tap_names``.
            generator: source of drop path and position augmentation in training; torch's own generator of the device
                when None.

        Returns:
            Features of each input. Taps: ``block.i`` tokens after block i [R, 1 + registers + N, D], not normed;
            ``queries.i``, ``keys.i``, ``values.i`` of all heads side by side, same shape, before rotation;
            ``attention.i`` [R, heads, 1 + registers + N], softmax weights of the class token. Of tokens that were left
            out there is nothing in them.

        Raises:
            UserError: unknown tap, size that does not fit the patches, mask or validity of the wrong shape.
        """
        self.check_taps(taps)
        given = inputs_of(inputs)
        if not given:
            return []
        rows, grids, valids, inner = [], [], [], []  # inner: validity of the patches that enter the trunk
        again: list[Tensor] = []
        left_out: dict[int, LeftOut] = {}
        tokenized: dict[int, tuple[Tensor, Any, Tensor | None]] = {}
        for index, one in enumerate(given):
            if id(one.view) not in tokenized:  # under whatever mask
                tokenized[id(one.view)] = self.tokenizer(one.view)
            tokens, grid, valid = self.embed(one.view, one.mask, tokenized[id(one.view)])
            valid = both_valid(valid, one.valid, (tokens.shape[0], tokens.shape[1] - self.prefix))
            valids.append(valid)
            if one.mask is not None and one.left_out is not None:
                left_out[index] = LeftOut.of(tokens, one.mask, one.left_out, self.prefix)
                tokens = left_out[index].visible
                valid = None if valid is None else left_out[index].visible_patches(valid)
            rows.append(tokens)
            grids.append(grid)
            if (added := self.added_again(grid)) is not None:
                again.append(left_out[index].visible_of(added) if index in left_out else added)
            inner.append(valid)
        choice = [  # what the trunk may leave out
            one.wanted if one.wanted is not None and self._may_leave_out(one, index in left_out) else None
            for index, one in enumerate(given)
        ]
        groups = [range(len(rows))] if self._pack(rows) else [range(i, i + 1) for i in range(len(rows))]
        prefixes: list[Tensor] = []
        patches: list[Tensor] = []
        tapped: list[dict[str, Tensor]] = []
        for group in groups:
            some = [rows[i] for i in group]
            kept = [left_out[i].kept if i in left_out else None for i in group]
            segments = self.segments(some, [grids[i] for i in group], [inner[i] for i in group], kept, generator)
            bare = [not given[i].reads_patches for i in group]
            added_to_some = [again[i] for i in group] if again else None
            results = self.trunk(some, segments, taps, generator, [choice[i] for i in group], bare, added_to_some)
            prefixes.extend(results[0])
            patches.extend(results[1])
            tapped.extend(results[2])
        first = int(self.config.class_token)
        pooled = [
            prefix[:, 0] if first else pool(patch, valid)
            for prefix, patch, valid in zip(prefixes, patches, inner, strict=True)
        ]
        for index, hidden in left_out.items():
            if choice[index] is None:
                patches[index] = hidden.put_back(patches[index])
        for index, one in enumerate(given):
            patches[index] = choose(patches[index], one.wanted if choice[index] is None else None)
        return [
            Features(cls=cls, registers=prefix[:, first:], patches=patch, taps=taps_of_view, valid=valid)
            for cls, prefix, patch, taps_of_view, valid in zip(pooled, prefixes, patches, tapped, valids, strict=True)
        ]

    def _may_leave_out(self, one: EncoderInput, hidden_left_out: bool) -> bool:
        """Whether patches that are not wanted may be missing from the trunk's result: not where their mean stands in
        for a class token, nor where the wanted ones are still to be put between hidden ones."""
        return self.config.class_token and not (hidden_left_out and one.reads_patches)

    def _pack(self, rows: Sequence[Tensor]) -> bool:
        """Whether these views run together, see ``Config.packing``."""
        if self.config.packing != "auto" or planned.kind(rows[0].device) != "cpu":
            return self.config.packing != "never"
        return sum(view.shape[0] * view.shape[1] for view in rows) <= PACKED_TOKENS * self.width

    def tap_names(self) -> list[str]:
        """Everything that can be tapped; attention is that of the class token, where there is one."""
        kinds = [kind for kind in TAP_KINDS if self.config.class_token or kind != "attention"]
        return [f"{kind}.{number}" for kind in kinds for number in range(self.depth)]

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

    @property
    def full_size(self) -> elastic.SubNetwork:
        """Its own size, the largest of its sub-networks."""
        return elastic.SubNetwork(self.width, (self.depth,))

    def check_size(self, size: elastic.SubNetwork) -> None:
        """Raises UserError with the widths and depths there are where a sub-network is not one of them."""
        elastic.check_transformer(size, width=self.width, depth=self.depth, heads=self.heads)

    def slice_of(self, size: elastic.SubNetwork) -> elastic.Slice:
        """A sub-network of a size that :meth:`check_size` takes: leading heads, blocks spread over the depth (POA)."""
        config = self.config.of_size(size)
        with torch.device("meta"):
            narrow = replace(config, depth=1).build()
        blocks = elastic.kept_blocks(size.depths[0], self.depth)
        in_front = {
            name: tensor for name, tensor in elastic.tensors_of(narrow).items() if not name.startswith("trunk.")
        }
        pieces = elastic.leading_pieces(in_front, elastic.tensors_of(self))
        pieces |= elastic.under("trunk", self.trunk.pieces(narrow.trunk.shape, blocks))
        rates = [self.trunk.rates[number] for number in blocks]

        def prepare(twin: torch.nn.Module) -> None:
            assert isinstance(twin, Encoder)
            twin.trunk.set_rates(rates)

        shared = ("tokenizer.stem",) if isinstance(self.tokenizer, GridTokenizer) and len(self.tokenizer.stem) else ()
        return elastic.Slice(config, pieces, prepare, shared)

    def uses_all_parameters(self, masked: bool) -> bool:
        """Whether every parameter takes part in every step; data parallel training looks for those that rest.

        Args:
            masked: whether views come with masks.
        """
        return masked and not self.config.separate_class_norm and self.config.class_token

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
        self.reset_tokens()
        self.trunk.reset_parameters()


_fulfils: type[EncoderProtocol] = Encoder  # for the type checker
