"""What targets of plain vision transformers for images share: what stands against them, and tensors by block."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from foundation.encoders import vit
from foundation.encoders.positions import LearnedPositions
from foundation.modalities.image.tokenizer import ImageTokenizer
from foundation.zoo.targets.base import Source


def obstacle(source: Source, whose: str) -> str:
    """What stands against a plain vision transformer of others, one sentence; empty for nothing.

    Args:
        source: the encoder.
        whose: transformers, for the sentence.
    """
    encoder = source.encoder
    if not isinstance(encoder, vit.Encoder):
        return f"it is an encoder '{type(encoder).__name__}', and {whose} are plain vision transformers"
    config = encoder.config
    if not isinstance(encoder.tokenizer, ImageTokenizer):
        return f"its tokenizer takes {source.modality}, and {whose} take images"
    if len(encoder.tokenizer.stem):
        return f"it has a convolutional stem (tokenizer.stem: conv), and {whose} have one strided convolution"
    if config.norm != "layernorm":
        return f"its norm is {config.norm}, and {whose} have LayerNorm"
    if config.separate_class_norm:
        return f"class token and patches have norms of their own (separate_class_norm), and {whose} have one for both"
    return ""


def size_of(source: Source) -> tuple[int, int]:
    """Height and width of a view, pixels."""
    height, width = source.view.shape[-2:]
    return int(height), int(width)


def table_of(source: Source, keeps: bool) -> tuple[Tensor, tuple[int, int], str]:
    """Learned positions as others have them.

    Args:
        source: an encoder without :func:`obstacle`, whose positions are learned, or that has none.
        keeps: whether the others resize a table as this encoder does; the trained one is then kept.

    Returns:
        [1, 1 + N, D], the class token's first; the image size that it is for; and a sentence where it is not the
        trained one.
    """
    encoder, size = source.encoder, size_of(source)
    patch = encoder.tokenizer.config.patch_size
    grid = (size[0] // patch, size[1] // patch)
    positions = encoder.positions
    if positions is None:
        return torch.zeros(1, 1 + math.prod(grid), encoder.width), size, ""
    assert isinstance(positions, LearnedPositions)
    trained = (positions.grid[0], positions.grid[1])
    if grid == trained or keeps:
        return positions.table.detach(), (trained[0] * patch, trained[1] * patch), ""
    cls, patches = positions(grid)
    said = (
        f"positions were resized from {trained[0]} x {trained[1]} to {grid[0]} x {grid[1]} patches, those of the "
        "evaluation's views: at other sizes it is resized by other rules than here"
    )
    return torch.cat((cls, patches), dim=1).detach(), size, said


def resizes_alike(source: Source, antialias: bool) -> bool:
    """Whether learned positions are resized to the exact grid, bicubic, smoothed or not."""
    position = source.encoder.config.position
    return (position.offset, position.fit, position.antialias) == (0.0, "resize", antialias)


def block_tensors(encoder: Any) -> Iterator[tuple[int, str, Tensor]]:
    """Parameters of all blocks: number, our name in the block, values. A bias of keys that is held at 0 is 0."""
    for number, block in enumerate(encoder.trunk.blocks):
        for name, tensor in block.state_dict().items():
            if name == "attention.qkv.bias" and block.attention.zero_key_bias:
                query, key, value = tensor.chunk(3)
                tensor = torch.cat((query, torch.zeros_like(key), value))
            yield number, name, tensor.detach()
