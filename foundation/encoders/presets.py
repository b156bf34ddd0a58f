"""Shapes of transformer encoders by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from foundation.encoders.blocks import FeedForward

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
