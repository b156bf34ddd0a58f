"""DINOv2's recipe with ViT-L/16: each way of attention, compiled or not, with drop path, the largest batch."""

from __future__ import annotations

TITLE = "DINOv2's recipe, ViT-L/16, 2 x 224 + 8 x 96 pixels, K = 65,536, random views"
SECONDS = 200.0


def measure(part) -> None:
    from foundation.measure.step_cases import step_cases

    step_cases(part, "large", batch=64)
