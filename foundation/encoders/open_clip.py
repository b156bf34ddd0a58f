"""Adapter: image towers of open_clip (vision transformers of CLIP) behind the interface of encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foundation.bicubic import resize_matrix
from foundation.encoders.open_clip_models import Shape, create, shape_of, tag_of
from foundation.encoders.pictures import PictureEncoder
from foundation.encoders.protocol import (
    Capabilities,
    Encoder,
    EncoderConfig,
    EncoderInput,
    Inputs,
    inputs_of,
)
from foundation.encoders.segments import choose
from foundation.errors import UserError
from foundation.modalities.image.tokenizer import Config as Patches
from foundation.modalities.lattice import lattice
from foundation.ranges import Range, Side, check
from foundation.types import Features

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the images that OpenAI's CLIP was trained on, and most of its kin."""


@dataclass(frozen=True, kw_only=True)
class Config(EncoderConfig):
    """An image tower of open_clip, without its projection to the embedding that images share with texts."""

    model: str
    """Name in open_clip, such as ``ViT-B-32``; ``open_clip.list_models()`` lists them."""

    pretrained: str | None = None
    """Start from published weights of this tag (``laion2b_s34b_b79k``), which are downloaded once; null: random."""

    weights: str | None = None
    """Start from a ``.safetensors`` file of the whole model or of its image tower; ``pretrained`` is then not looked
    at."""

    size: tuple[Side, Side] | None = None
    """Input size at which positions are trained; null takes the model's own. Any other size is interpolated."""

    registers: Annotated[int, Range(0, 1024)] = 0
    """Register tokens (Darcet et al. 2024) behind the class token, without positions and drawn from N(0, 1 / width);
    all other weights keep their meaning."""

    def __post_init__(self) -> None:
        if not self.model:
            raise UserError("encoder.model is empty: give an open_clip name such as 'ViT-B-32'")
        check(self, "encoder")
        if self.size is not None:
            object.__setattr__(self, "size", tuple(int(side) for side in self.size))

    @property
    def published(self) -> str | None:
        taken = self.pretrained is not None and self.weights is None
        return f"open_clip:{self.model},pretrained={self.pretrained}" if taken else None

    @property
    def modality(self) -> str:
        """Always ``image``."""
        return "image"

    @property
    def shape(self) -> Shape:
        """The model without its weights."""
        return shape_of(self.model)

    @property
    def known_width(self) -> int:
        """Width of a token."""
        return int(self.shape.vision.width)

    def coordinates(self, size: tuple[int, ...]) -> NDArray[np.int64]:
        """Place of each token for an image of that size, [N, 2] (row, column), row-major.

        Raises:
            UserError: a side is no multiple of the patch.
        """
        return lattice(Patches(patch_size=self.shape.side).grid(tuple(size)))

    def build(self) -> OpenClipEncoder:
        """Make the encoder.

        Raises:
            UserError: open_clip cannot be imported, has no such vision transformer; weights that cannot be had.
        """
        return OpenClipEncoder(self)


class OpenClipEncoder(PictureEncoder):
    """A vision transformer of open_clip: one pass for each view.

    ``cls`` is what open_clip projects into the embedding, in front of the projection: the class token, or the mean of
    the patches where the model pools so.

    Attributes:
        config: what it was built from.
        modality: ``image``.
        width: width D of the features.
        depth: number of blocks.
        prefix: class and register tokens.
        visual: open_clip's tower.
    """

    modality = "image"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, shape = config, config.shape
        visual: Any = create(config.model, size=config.size, pretrained=config.pretrained, weights=config.weights)
        self.visual = visual
        self.width, self.depth = int(shape.vision.width), len(visual.transformer.resblocks)
        self.prefix, self.stride = 1 + config.registers, shape.side
        self.mean_pool = shape.vision.pool_type == "avg"
        self.norm_behind_pool = bool(shape.vision.final_ln_after_pool)
        self.mask_token = nn.Parameter(torch.zeros(1, self.width))
        if config.registers:
            self.reg_token = nn.Parameter(torch.randn(1, config.registers, self.width) * self.width**-0.5)
        else:
            self.register_parameter("reg_token", None)

    @property
    def capabilities(self) -> Capabilities:
        """It hides patches behind a mask token, and cannot leave them out."""
        return Capabilities(hides=True, overwrites=True, cell_shape=(3, self.stride, self.stride))

    def forward(
        self, inputs: Inputs, taps: Sequence[str] = (), *, generator: torch.Generator | None = None
    ) -> list[Features]:
        """Encode views, one after the other.

        Args:
            inputs: tensors [R_i, 3, H_i, W_i], or inputs with such a view.
            taps: ``block.i``: tokens behind block i, [R, 1 + registers + N, D], not normed.
            generator: not used: nothing is drawn.

        Raises:
            UserError: unknown tap; a size that does not fit the patches; tokens to leave out, or padding.
        """
        self.check_taps(taps)
        return [self._encode(one, taps) for one in inputs_of(inputs)]

    def _encode(self, given: EncoderInput, taps: Sequence[str]) -> Features:
        if given.left_out is not None or given.valid is not None:
            what = "leave tokens out" if given.valid is None else "leave padding out"
            raise UserError(f"open_clip model {self.config.model!r} cannot {what}: encoder 'vit' can")
        tokens = self._embed(given)
        tapped: dict[str, Tensor] = {}
        for number, block in enumerate(self.visual.transformer.resblocks):
            tokens = block(tokens)
            if f"block.{number}" in taps:
                tapped[f"block.{number}"] = tokens
        normed: Tensor = self.visual.ln_post(tokens)
        source = tokens if self.norm_behind_pool else normed
        pooled = source[:, self.prefix :].mean(dim=1) if self.mean_pool else source[:, 0]
        if self.norm_behind_pool:
            pooled = self.visual.ln_post(pooled)
        patches = choose(normed[:, self.prefix :], given.wanted)
        return Features(cls=pooled, registers=normed[:, 1 : self.prefix], patches=patches, taps=tapped)

    def _embed(self, given: EncoderInput) -> Tensor:
        """Tokens as they enter the first block, [R, 1 + registers + N, D]."""
        view, visual = given.view, self.visual
        rows, columns = Patches(patch_size=self.stride).grid((view.shape[2], view.shape[3]))
        patches = visual.conv1(view).flatten(2).mT  # [R, N, D]
        if given.mask is not None:
            if given.mask.shape != patches.shape[:2]:
                raise UserError(
                    f"mask is {list(given.mask.shape)}, but the view has {list(patches.shape[:2])} rows and tokens"
                )
            patches = torch.where(given.mask[..., None], self.mask_token.to(patches.dtype), patches)
        positions = visual.positional_embedding.to(patches.dtype)
        patches = patches + self._resized(positions[1:], (rows, columns))
        cls = (visual.class_embedding.to(patches.dtype) + positions[0]).expand(len(view), 1, -1)
        parts = [cls, patches]
        if self.reg_token is not None:
            parts.insert(1, self.reg_token.to(patches.dtype).expand(len(view), -1, -1))
        tokens: Tensor = visual.ln_pre(torch.cat(parts, dim=1))
        return tokens

    def _resized(self, positions: Tensor, grid: tuple[int, int]) -> Tensor:
        """Positions of patches [n, D] on another grid, [N, D], as open_clip resizes them: bicubic, antialiased."""
        old = tuple(int(side) for side in self.visual.grid_size)
        if grid == old:
            return positions
        down, across = (
            resize_matrix(there, wanted, offset=0.0, antialias=True).to(positions)
            for there, wanted in zip(old, grid, strict=True)
        )
        return torch.einsum("ha,wb,abd->hwd", down, across, positions.unflatten(0, old)).flatten(0, 1)

    def preprocessing(self) -> dict[str, Any]:
        """How the weights were fed: ``size``, ``crop_fraction``, ``mean`` and ``std`` of a probe's view."""
        said = {} if self.config.pretrained is None else tag_of(self.config.shape, self.config.pretrained)
        size = self.config.size or self.config.shape.size
        mean, std = said.get("mean") or MEAN, said.get("std") or STD
        return {"size": int(size[0]), "crop_fraction": 1.0, "mean": list(mean), "std": list(std)}

    def tap_names(self) -> list[str]:
        """Everything that can be tapped: tokens behind each block."""
        return [f"block.{number}" for number in range(self.depth)]

    def layer_of(self, name: str) -> int:
        """Layer of a parameter: 0 for patch projection, positions, tokens and the norm in front, i + 1 for block i,
        depth + 1 for the last norm."""
        parts = name.split(".")
        if parts[:3] == ["visual", "transformer", "resblocks"]:
            return int(parts[3]) + 1
        return self.depth + 1 if parts[:2] == ["visual", "ln_post"] else 0

    def is_patch_embed(self, name: str) -> bool:
        """Whether a parameter belongs to the patch projection."""
        return name.startswith("visual.conv1.")

    def adopted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of this encoder or of the same without registers."""
        own = {} if self.reg_token is None else {"reg_token": self.reg_token.detach()}
        return {**own, **weights}


_fulfils: type[Encoder] = OpenClipEncoder  # for the type checker
