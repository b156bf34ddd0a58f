"""Steps of the base recipes of audio and video."""

from __future__ import annotations

TITLE = "Base recipes of audio and video, random views"
SECONDS = 60.0
RECIPES = {"asit-base": 32, "atst-frame": 32, "video-dino-ibot": 16, "vjepa2": 8}
"""Samples per step."""


def measure(part) -> None:
    from foundation.measure.steps import ceiling_of
    from foundation.measure.timing import free

    ceiling = ceiling_of(part.device, part.machine.get("gpu"), 256 if part.rehearse else 8192)
    recipes = {"fsdd-atst-frame-nano": 2, "utd-depth-vjepa2-nano": 2} if part.rehearse else RECIPES
    for name, batch in recipes.items():
        part.case(name, lambda name=name, batch=batch: one(part, name, batch, ceiling), seconds=8.0)
        free()


def one(part, name: str, batch: int, ceiling) -> dict:
    from foundation.measure.recipes import shipped
    from foundation.measure.steps import Steps, figures

    recipe = shipped(name, batch, [] if part.rehearse else ["train.precision=bfloat16"])
    steps = Steps(recipe, batch, part.settings.seed)
    steps.use_attention("sdpa")
    flops = steps.flops()
    if flops.uncounted:
        part.note(f"{name}: operators without a formula, not counted: {', '.join(flops.uncounted)}")
    steps.use_attention("auto")
    return figures(steps.speed(rounds=1 if part.rehearse else 5), batch, flops.total, ceiling)
