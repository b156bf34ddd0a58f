"""DINOv2's recipe with ViT-S/16."""

from __future__ import annotations

TITLE = "DINOv2's recipe, ViT-S/16, 2 x 224 + 8 x 96 pixels, K = 65,536, random views"
SECONDS = 60.0


def measure(part) -> None:
    from foundation.measure.step_cases import step_cases

    step_cases(part, "small", batch=128)
