"""The photometric half of the views: colour jitter, greyscale, blur, solarise, normalise.

On a CPU one view after the other is taken from uint8 to its normalised form, in memory that stays in the second-level
cache; on an accelerator all views at once are, as one tensor program that never waits for the device.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.modalities.image import colour
from foundation.modalities.image.blur import ViewBlur, blur_rows, view_memory
from foundation.modalities.image.plan import BatchPlan, Plan, Program, RowPlan, Step
from foundation.modalities.image.planes import Planes, RowPlanes, ViewPlanes

_COLOUR: dict[str, Callable[[Planes, Any], None]] = {
    "brightness": colour.brightness,
    "contrast": colour.contrast,
    "saturation": colour.saturation,
    "hue": colour.hue,
    "greyscale": colour.greyscale,
    "solarise": colour.solarise,
}

_SIZES = 4  # of views, whose working memory is kept


def run_plan(pixels: Tensor, plan: Plan, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Runs the photometric half.

    Args:
        pixels: [R, 3, S, S] uint8, or float32 with values in [0, 255] (not changed).
        plan: made for these rows; one for rows needs them on the CPU, one for a batch on the plan's device.
        mean: per channel, of values in [0, 1].
        std: per channel.

    Returns:
        [R, 3, S, S] float32, ``(value / 255 - mean) / std``.

    Raises:
        ValueError: a plan for rows, and pixels that are not on the CPU.
    """
    if isinstance(plan, BatchPlan):
        return _run_batch(pixels, plan, mean, std)
    if pixels.device.type != "cpu":
        raise ValueError(f"this plan is for a CPU, the pixels are on {pixels.device}; make it with batched=True")
    return _run_rows(pixels, plan, mean, std)


@torch.inference_mode(False)  # else a probe's views would leave memory behind that training may not write to
def _run_rows(pixels: Tensor, plan: RowPlan, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    out = np.empty(pixels.shape, np.float32)  # NumPy asks for huge pages: hundreds of page faults fewer for each view
    scale = np.array([1.0 / (255.0 * s) for s in std], np.float32)[:, None, None]
    shift = np.array([-m / s for m, s in zip(mean, std, strict=True)], np.float32)[:, None, None]
    view = _KEPT.view(pixels.shape[-1])
    for row, program, result in zip(pixels.unbind(0), plan.programs(), out, strict=True):
        view.run(row, program, scale, shift, result)
    return torch.from_numpy(out)


class _View:
    """One view after the other, on a CPU, in memory of its own."""

    def __init__(self, size: int) -> None:
        memory = view_memory(size)
        self.whole, self.grey = ViewPlanes(memory, size), ViewPlanes(memory, size, channels=1)
        self.blurs = {self.whole: ViewBlur(memory, size, channels=3), self.grey: ViewBlur(memory, size, channels=1)}

    def run(self, row: Tensor, program: Program, scale: Any, shift: Any, result: NDArray[np.float32]) -> None:
        """Takes ``row`` through the program and writes it, normalised, to ``result``."""
        view = self.whole
        view.load(row)
        for name, value in program:
            if name == "blur":
                self.blurs[view](value)
            elif name == "greyscale":  # one plane is enough for what follows
                colour.grey_plane(view)
                self.grey.gain, self.grey.offset = view.gain, view.offset
                view = self.grey
            else:
                _COLOUR[name](view, value)
        if view.offset != 0.0:
            shift = shift + scale * view.offset
        if view.gain != 1.0:
            scale = scale * view.gain
        if view is self.whole:
            array = view.array
            array *= scale
            np.add(array, shift, out=result)
        else:
            np.multiply(view.array, scale, out=result)
            result += shift


class _Kept(threading.local):
    """The views of this thread, of the sizes used last."""

    def __init__(self) -> None:
        self.views: dict[int, _View] = {}

    def view(self, size: int) -> _View:
        view = self.views.pop(size, None) or _View(size)
        while len(self.views) >= _SIZES:
            del self.views[next(iter(self.views))]  # the one whose use is longest ago
        self.views[size] = view
        return view


_KEPT = _Kept()


def _run_batch(pixels: Tensor, plan: BatchPlan, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    x = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device).copy_(pixels)
    for step in plan.steps:
        if step.rows is None:
            _apply(x, step, plan)
        else:
            rows = plan.integers[slice(*step.rows)]
            x.index_copy_(0, rows, _apply(x.index_select(0, rows), step, plan))
    scale, shift = _constants(tuple(mean), tuple(std), x.device)
    return x.mul_(scale).add_(shift)


def _apply(x: Tensor, step: Step, plan: BatchPlan) -> Tensor:
    values = plan.floats[slice(*step.values)]
    if step.operation == "blur":
        return blur_rows(x, values.view(-1, step.width))
    _COLOUR[step.operation](RowPlanes(x), values.view(-1, 1, 1, 1))
    return x


@lru_cache(maxsize=64)
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    scale = torch.tensor([1.0 / (255.0 * s) for s in std], device=device).view(1, -1, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device).view(1, -1, 1, 1)
    return scale, shift
