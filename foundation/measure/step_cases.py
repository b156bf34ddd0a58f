"""The cases of a training step that matter on a GPU, the most wanted first."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from foundation.encoders.attention import Backend, choose_backend
from foundation.encoders.packed_attention import PACKED, unavailable
from foundation.measure.part import Part
from foundation.measure.recipes import dinov2
from foundation.measure.steps import Ceiling, Steps, ceiling_of, figures
from foundation.measure.timing import free


def step_cases(part: Part, preset: str, batch: int) -> None:
    """Measure a step of DINOv2's recipe: ways of attention, the largest batch, compiled blocks, drop path.

    Args:
        part: gets the rows.
        preset: shape of the encoder.
        batch: samples per step.
    """
    batch, rounds = (2, 1) if part.rehearse else (batch, 5)
    ceiling = ceiling_of(part.device, part.machine.get("gpu"), 256 if part.rehearse else 8192)
    part.note(
        f"MFU: counted operations over the time of the step, against a measured {1e-12 * ceiling.measured:.4g} TFLOP/s "
        "of bfloat16 products and against the published peak. Counted are the operators really called in the step by "
        "sdpa: student, teacher, heads, backward. Other rows take the same number, because they compute the same"
    )
    found = _attentions(part, preset, batch, ceiling, rounds)
    free()
    if found is not None:
        _others(part, preset, found, ceiling, rounds)


@dataclass(frozen=True)
class Found:
    """What other cases begin with: the quickest way of attention, a batch that fits, operations of its step."""

    attention: Backend
    batch: int
    flops: int


def _attentions(part: Part, preset: str, batch: int, ceiling: Ceiling, rounds: int) -> Found | None:
    """Count a step, time it with each way of attention, and let the batch grow with the quickest; None where no step
    could be taken."""
    steps = Steps(dinov2(preset, batch, "train.precision=bfloat16", tiny=part.rehearse), batch, part.settings.seed)
    steps.use_attention("sdpa")
    counts: list[int] = []

    def counted(size: int) -> dict[str, Any]:
        found = steps.flops(size)
        counts.append(found.total)
        if found.uncounted:
            part.note(f"operators without a formula, not counted: {', '.join(found.uncounted)}")
        return {"batch": size, "teraflop_per_step": 1e-12 * found.total}

    while part.case("counted operations", partial(counted, batch)) is None:
        steps.forget()  # on a GPU with less memory half the batch may fit
        batch //= 2
        if batch < 2:
            return None
    (flops,) = counts
    per_second: dict[Backend, float] = {}
    for backend in _backends(part, part.device):
        steps.use_attention(backend)
        row = part.case(
            f"attention {backend}", lambda: figures(steps.speed(batch, rounds), batch, flops, ceiling), seconds=8.0
        )
        steps.forget()
        if row is not None:
            per_second[backend] = row["samples_per_second"]
    if not per_second:
        return None
    best = max(per_second, key=lambda name: per_second[name])
    auto = choose_backend("auto", part.device, dtype=torch.bfloat16)
    taken = f"auto takes {auto}" + ("" if auto in per_second else ", which is none of them")
    part.note(f"the quickest of these in a step is attention {best}; {taken}")
    steps.use_attention(best)
    found = Found(best, batch, flops)
    _larger(part, steps, found, ceiling)
    return found


def _backends(part: Part, device: torch.device) -> list[Backend]:
    usable: list[Backend] = ["sdpa"]
    for name in PACKED:
        problem = unavailable(name, device) or ("it has no backward pass on a CPU" if device.type == "cpu" else "")
        if problem:
            part.note(f"attention {name}: not measured, {problem}")
        else:
            usable.append(name)
    return usable


def _larger(part: Part, steps: Steps, found: Found, ceiling: Ceiling) -> None:
    """Twice the batch until it no longer fits."""
    fitted = found.batch
    for size, speed in steps.growing(2 * fitted, (2 if part.rehearse else 64) * fitted):
        if speed is None:
            part.note(f"largest batch that fits, of those doubled: {fitted}; {size} does not")
            return
        fitted = size
        part.row(case="larger batch", **figures(speed, size, found.flops * size // found.batch, ceiling))
        if part.seconds_left < 40 and not part.rehearse:
            part.note(f"the search for the largest batch ended at {size}, for want of time")
            return


def _others(part: Part, preset: str, found: Found, ceiling: Ceiling, rounds: int) -> None:
    """Recipes with a setting changed, each built anew."""
    cases = {
        "compiled blocks": ("train.compile=blocks",),
        "drop path 0.3": ("encoder.drop_path=0.3",),
        "activations computed anew": ("parallel.activation_checkpointing=selective",),
        "compiled blocks, 8-bit products": ("train.compile=blocks", "train.float8=blocks"),
    }
    if part.rehearse:
        part.note("compiled blocks: rehearsed without compiling, which takes minutes on a processor")
    for name, settings in cases.items():

        def timed(settings: tuple[str, ...] = settings) -> dict[str, Any]:
            recipe = dinov2(preset, found.batch, "train.precision=bfloat16", *settings, tiny=part.rehearse)
            steps = Steps(recipe, found.batch, part.settings.seed)
            flops = found.flops
            if any(setting.startswith("encoder.") for setting in settings):  # it computes something else
                steps.use_attention("sdpa")
                flops = steps.flops().total
            steps.use_attention(found.attention)
            return figures(steps.speed(rounds=rounds), found.batch, flops, ceiling)

        with torch.compiler.set_stance("force_eager") if part.rehearse else nullcontext():
            part.case(name, timed, seconds=25.0)
        free()
