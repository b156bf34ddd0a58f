"""The cases of a training step that matter on a GPU, the most wanted first."""

from __future__ import annotations

from typing import Any

import torch

from foundation.encoders.attention import Backend, choose_backend
from foundation.encoders.packed_attention import PACKED, unavailable
from foundation.measure.part import Part
from foundation.measure.recipes import dinov2, has_setting
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
    best, flops = _attentions(part, preset, batch, ceiling, rounds)
    free()
    _others(part, preset, batch, best, ceiling, rounds, flops)


def _attentions(part: Part, preset: str, batch: int, ceiling: Ceiling, rounds: int) -> tuple[Backend, int | None]:
    """The quickest way of attention, measured at growing batches too, and the operations of a step."""
    steps = Steps(dinov2(preset, batch, "train.precision=bfloat16", tiny=part.rehearse), batch, part.settings.seed)
    steps.use_attention("sdpa")
    flops: int | None = None

    def counted() -> dict[str, Any]:
        nonlocal flops
        found = steps.flops()
        flops = found.total
        if found.uncounted:
            part.note(f"operators without a formula, not counted: {', '.join(found.uncounted)}")
        return {"batch": batch, "teraflop_per_step": 1e-12 * found.total}

    part.case("counted operations", counted)
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
        return "auto", flops
    best = max(per_second, key=lambda name: per_second[name])
    auto = choose_backend("auto", part.device, dtype=torch.bfloat16)
    part.note(f"the quickest attention in a step is {best}; auto takes {auto} here")
    steps.use_attention(best)
    _larger(part, steps, flops, ceiling, batch)
    return best, flops


def _backends(part: Part, device: torch.device) -> list[Backend]:
    usable: list[Backend] = ["sdpa"]
    for name in PACKED:
        problem = unavailable(name, device) or ("it has no backward pass on a CPU" if device.type == "cpu" else "")
        if problem:
            part.note(f"attention {name}: not measured, {problem}")
        else:
            usable.append(name)
    return usable


def _larger(part: Part, steps: Steps, flops: int | None, ceiling: Ceiling, batch: int) -> None:
    """Twice the batch until it no longer fits."""
    most = 2 * batch if part.rehearse else 64 * batch
    fitted = batch
    for size, speed in steps.growing(2 * batch, most):
        if speed is None:
            part.note(f"largest batch that fits, of those doubled: {fitted}; {size} does not")
            return
        fitted = size
        scaled = None if flops is None else flops * size // batch
        part.row(case="larger batch", **figures(speed, size, scaled, ceiling))
        if part.seconds_left < 40 and not part.rehearse:
            part.note(f"the search for the largest batch ended at {size}, for want of time")
            return


def _others(
    part: Part, preset: str, batch: int, attention: Backend, ceiling: Ceiling, rounds: int, flops: int | None
) -> None:
    """Recipes with a setting changed, each built anew."""
    cases: dict[str, str] = {}
    if has_setting("compile"):
        cases["compiled blocks"] = "train.compile=blocks"
    else:
        part.note("compiled blocks: not measured, this version has no train.compile")
    cases["drop path 0.3"] = "encoder.drop_path=0.3"
    for name, setting in cases.items():

        def timed(setting: str = setting) -> dict[str, Any]:
            recipe = dinov2(preset, batch, "train.precision=bfloat16", setting, tiny=part.rehearse)
            steps = Steps(recipe, batch, part.settings.seed)
            its_flops = flops
            if setting.startswith("encoder."):  # it computes something else
                steps.use_attention("sdpa")
                its_flops = steps.flops().total
            steps.use_attention(attention)
            return figures(steps.speed(batch, rounds), batch, its_flops, ceiling)

        part.case(name, timed, seconds=25.0)
        free()
