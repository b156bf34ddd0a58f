"""Shapes of transformer encoders by name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from foundation.encoders.blocks import FeedForward
from foundation.errors import UserError

PresetName = Literal["nano", "tiny", "small", "base", "large", "giant"]


@dataclass(frozen=True)
class Preset:
    """Shape of a trunk.

    Attributes:
        width: width D of a token.
        depth: number of blocks.
        heads: attention heads.
        ffn: kind of feed-forward part.
    """

    width: int
    depth: int
    heads: int
    ffn: FeedForward = "mlp"


PRESETS: dict[str, Preset] = {
    "nano": Preset(128, 6, 4),  # ours: trains to something useful within minutes on two CPU cores
    "tiny": Preset(192, 12, 3),  # DeiT (Touvron et al. 2021)
    "small": Preset(384, 12, 6),  # DeiT, DINO
    "base": Preset(768, 12, 12),  # ViT (Dosovitskiy et al. 2021), table 1
    "large": Preset(1024, 24, 16),  # ViT, table 1
    "giant": Preset(1536, 40, 24, "swiglu"),  # DINOv2 (Oquab et al. 2024), table 17
}


def shape(preset: str | None, given: Mapping[str, int | None], ffn: FeedForward | None) -> Preset:
    """What an encoder's settings amount to: the preset's numbers, with what is given in their place.

    Args:
        preset: its name; None: there is none, and ``small`` where no number is given.
        given: width, depth and heads; None where they are not.
        ffn: kind of the feed-forward part, where it is given.

    Raises:
        UserError: no such preset; a number is missing and there is no preset.
    """
    if preset is not None and preset not in PRESETS:
        raise UserError(f"encoder.preset is {preset!r}: it must be one of {', '.join(PRESETS)} or null")
    there = {name: number for name, number in given.items() if number is not None}
    if not there and preset is None:
        preset = "small"
    if len(there) == len(given) and preset is not None:
        text = "encoder.width, depth and heads are all given: remove them, or set them to null"
        warnings.warn(f"encoder.preset {preset!r} changes nothing, because {text}", stacklevel=1)
    missing = [name for name in given if name not in there]
    if missing and preset is None:
        raise UserError(f"encoder.{missing[0]} is missing: give it, or a preset ({', '.join(PRESETS)})")
    start = PRESETS[preset] if preset is not None else Preset(0, 0, 0)
    return Preset(
        width=there.get("width", start.width),
        depth=there.get("depth", start.depth),
        heads=there.get("heads", start.heads),
        ffn=ffn or start.ffn,
    )
