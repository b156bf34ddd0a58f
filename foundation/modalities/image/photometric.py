"""The photometric half of the views: colour jitter, greyscale, blur, solarise, normalise, as one tensor program.

The parameters are drawn on the host; :func:`make_plan` turns them into steps whose row numbers and values are already
tensors, so that running the plan (:func:`run_plan`) never asks the device anything. On a CPU the rows are cut into
small groups with the same steps, which stay in the second-level cache; an accelerator gets all rows at once.

Pixels are float32 in [0, 255] between the steps, clipped as torchvision clips them, never rounded.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

RED, GREEN, BLUE = 0.299, 0.587, 0.114
"""Weights of the grey value (ITU-R BT.601, as in Pillow)."""
JITTER = ("brightness", "contrast", "saturation", "hue")
_GROUP_PIXELS = 224 * 224  # rows of a group: about what stays in the second-level cache with its working memory
_BLOCK = 16


@dataclass(frozen=True)
class Parameters:
    """What happens to each of R rows.

    Attributes:
        order: [R, 4] order of the jitter operations (places in :data:`JITTER`).
        factors: [R, 4] brightness, contrast and saturation factors (1 = unchanged), hue shift in turns.
        jitter: [R] whether the four operations are applied.
        greyscale: [R].
        blur: [R].
        sigma: [R] standard deviation of the blur, pixels of the view.
        solarise: [R].
    """

    order: NDArray[np.int64]
    factors: NDArray[np.float64]
    jitter: NDArray[np.bool_]
    greyscale: NDArray[np.bool_]
    blur: NDArray[np.bool_]
    sigma: NDArray[np.float64]
    solarise: NDArray[np.bool_]


@dataclass(frozen=True)
class Step:
    """One operation on some rows of a group.

    Attributes:
        operation: name of the function.
        rows: interval of ``Plan.integers`` with places inside the group; None = every row of the group.
        values: interval of ``Plan.floats``.
        width: values per row.
    """

    operation: str
    rows: tuple[int, int] | None
    values: tuple[int, int]
    width: int = 1


@dataclass(frozen=True)
class Plan:
    """All steps of a batch.

    Attributes:
        groups: per group the interval of its row numbers in ``integers``, and its steps.
        whole: there is one group with all rows in their order.
        integers: int64, row numbers.
        floats: float32, values.
    """

    groups: tuple[tuple[tuple[int, int], tuple[Step, ...]], ...]
    whole: bool
    integers: Tensor
    floats: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Plan:
        return replace(
            self,
            integers=self.integers.to(device, non_blocking=non_blocking),
            floats=self.floats.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Plan:
        return replace(self, integers=self.integers.pin_memory(), floats=self.floats.pin_memory())


def blur_radius(sigma: NDArray[np.float64] | float, radius: int = 0) -> NDArray[np.int64]:
    """Half width of the blur kernel: ``ceil(3 sigma)`` pixels, or the fixed ``radius`` where that is not 0."""
    wanted = np.ceil(3.0 * np.asarray(sigma, np.float64)).astype(np.int64)
    return np.maximum(wanted, 1) if radius == 0 else np.full_like(wanted, radius)


def blur_kernels(sigma: NDArray[np.float64], radius: int = 0) -> NDArray[np.float32]:
    """Normalised Gaussian kernels, the right half from the centre on.

    Args:
        sigma: [R] pixels.
        radius: see :func:`blur_radius`.

    Returns:
        [R, largest radius + 1] float32; zero beyond a row's own radius.
    """
    own = blur_radius(sigma, radius)
    places = np.arange(int(own.max()) + 1)
    weights = np.exp(-0.5 * (places[None] / np.asarray(sigma)[:, None]) ** 2)
    weights = np.where(places[None] <= own[:, None], weights, 0.0)
    return (weights / (weights[:, :1] + 2.0 * weights[:, 1:].sum(1, keepdims=True))).astype(np.float32)


def make_plan(parameters: Parameters, size: int, radius: int = 0, grouped: bool = True) -> Plan:
    """Orders the work.

    Args:
        parameters: of R rows.
        size: side of the views, pixels.
        radius: see :func:`blur_radius`.
        grouped: True cuts the rows into cache-sized groups of like rows (CPU); False makes one group (accelerator).

    Returns:
        The plan. What a row's pixels become does not depend on ``grouped`` nor on the other rows.
    """
    count = len(parameters.jitter)
    pieces = [list(range(count))] if count else []
    if grouped and count:
        length = max(1, _GROUP_PIXELS // (size * size))
        radii = np.where(parameters.blur, blur_radius(parameters.sigma, radius), 0)
        permutation = np.where(parameters.jitter, parameters.order @ np.array([64, 16, 4, 1]), -1)
        rank = np.lexsort((parameters.solarise, parameters.greyscale, radii, permutation)).tolist()
        pieces = [rank[i : i + length] for i in range(0, count, length)]
    writer = _Writer(parameters, radius)
    groups = tuple(writer.group(rows) for rows in pieces)
    integers, floats = torch.tensor(writer.integers, dtype=torch.int64), torch.tensor(writer.floats)
    return Plan(groups, not grouped, integers, floats.to(torch.float32))


class _Writer:
    """Writes the steps of group after group. Plain lists: a group has few rows, and numpy's calls would cost more."""

    def __init__(self, parameters: Parameters, radius: int) -> None:
        self.integers: list[int] = []
        self.floats: list[float] = []
        self.order, self.factors = parameters.order.tolist(), parameters.factors.tolist()
        self.jitter, self.greyscale = parameters.jitter.tolist(), parameters.greyscale.tolist()
        self.blur, self.solarise = parameters.blur.tolist(), parameters.solarise.tolist()
        self.radii, self.kernels = [], []
        if any(self.blur):
            sigma = np.where(parameters.blur, parameters.sigma, 1e-3)
            self.radii, self.kernels = blur_radius(sigma, radius).tolist(), blur_kernels(sigma, radius).tolist()

    def group(self, rows: list[int]) -> tuple[tuple[int, int], tuple[Step, ...]]:
        steps: list[Step] = []
        for turn in range(len(JITTER)):
            places: list[list[int]] = [[] for _ in JITTER]
            for place, row in enumerate(rows):
                if self.jitter[row]:
                    places[self.order[row][turn]].append(place)
            for number, name in enumerate(JITTER):
                values = [[f := self.factors[rows[place]][number], 1.0 - f] for place in places[number]]
                self._step(steps, name, places[number], values, len(rows))
        for name, flags in (("greyscale", self.greyscale), ("blur", self.blur), ("solarise", self.solarise)):
            chosen = [place for place, row in enumerate(rows) if flags[row]]
            values = [[0.0]] * len(chosen)
            if name == "blur" and chosen:
                width = 1 + max(self.radii[rows[place]] for place in chosen)
                values = [self.kernels[rows[place]][:width] for place in chosen]
            self._step(steps, name, chosen, values, len(rows))
        self.integers += rows
        return (len(self.integers) - len(rows), len(self.integers)), tuple(steps)

    def _step(self, steps: list[Step], name: str, places: list[int], values: list[list[float]], rows: int) -> None:
        if not places:
            return
        interval = None
        if len(places) < rows:
            interval = (len(self.integers), len(self.integers) + len(places))
            self.integers += places
        start = len(self.floats)
        for row in values:
            self.floats += row
        steps.append(Step(name, interval, (start, len(self.floats)), len(values[0])))


def run_plan(
    pixels: Tensor,
    plan: Plan,
    mean: Sequence[float],
    std: Sequence[float],
    threshold: float = 128.0,
) -> Tensor:
    """Runs the photometric half.

    Args:
        pixels: [R, 3, S, S] uint8, or float32 with values in [0, 255] (not changed).
        plan: made for these rows, on the same device.
        mean: per channel, of values in [0, 1].
        std: per channel.
        threshold: solarise inverts values from here on, in levels of 255.

    Returns:
        [R, 3, S, S] float32, ``(value / 255 - mean) / std``.
    """
    out = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device)
    scale, shift = _constants(tuple(mean), tuple(std), pixels.device)
    for (start, stop), steps in plan.groups:
        count = stop - start
        x = scratch("pixels", (count, *pixels.shape[1:]), pixels.device)
        if plan.whole:
            x.copy_(pixels)
        else:
            x.copy_(pixels.index_select(0, plan.integers[start:stop]))
        for step in steps:
            _apply(x, step, plan, threshold)
        x.mul_(scale)
        if plan.whole:
            return torch.add(x, shift, out=out)
        # On a CPU the row numbers can be read; writing each row straight to its place saves a pass over memory.
        for place, row in enumerate(plan.integers[start:stop].tolist()):
            torch.add(x[place], shift[0], out=out[row])
    return out


def _apply(x: Tensor, step: Step, plan: Plan, threshold: float) -> None:
    values = plan.floats[slice(*step.values)].view(-1, step.width)
    operation = _OPERATIONS[step.operation]
    if step.rows is None:
        operation(x, values, threshold)
    else:
        rows = plan.integers[slice(*step.rows)]
        part = x.index_select(0, rows)
        operation(part, values, threshold)
        x.index_copy_(0, rows, part)


_LOCAL = threading.local()


def scratch(name: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Uninitialised float32 working memory.

    On a CPU it is kept and used again: giving planes of this size back to the operating system after each operation
    and fetching them anew costs more than the arithmetic. Accelerators have an allocator that does this.
    """
    if device.type != "cpu":
        return torch.empty(shape, dtype=torch.float32, device=device)
    count = math.prod(shape)
    kept: Tensor | None = getattr(_LOCAL, name, None)
    if kept is None or kept.numel() < count:
        with torch.inference_mode(False):  # else a probe's views would make memory that training may not write to
            kept = torch.empty(count, dtype=torch.float32)
        setattr(_LOCAL, name, kept)
    return kept[:count].view(shape)


@lru_cache(maxsize=64)
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    scale = torch.tensor([1.0 / (255.0 * s) for s in std], device=device).view(1, -1, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device).view(1, -1, 1, 1)
    return scale, shift


@lru_cache(maxsize=8)
def _grey_weights(device: torch.device) -> Tensor:
    return torch.tensor([RED, GREEN, BLUE], dtype=torch.float64, device=device)


def _column(values: Tensor, place: int = 0) -> Tensor:
    return values[:, place, None, None, None]


def _grey_plane(x: Tensor, name: str = "grey") -> Tensor:
    """[R, 1, H, W] grey values of [R, 3, H, W], in working memory."""
    grey = torch.mul(x[:, 0:1], RED, out=scratch(name, (x.shape[0], 1, *x.shape[2:]), x.device))
    return grey.add_(x[:, 1:2], alpha=GREEN).add_(x[:, 2:3], alpha=BLUE)


# Every operation works in place on x [R, 3, H, W] with values [R, width] of its own, and returns x.


def brightness(x: Tensor, values: Tensor, threshold: float = 0.0) -> Tensor:
    """Mixes with black; values: factor, 1 - factor."""
    return x.mul_(_column(values)).clamp_(0.0, 255.0)


def contrast(x: Tensor, values: Tensor, threshold: float = 0.0) -> Tensor:
    """Mixes with the mean grey value of the whole view; values: factor, 1 - factor."""
    # Lines first, each by itself, then the few sums in double: the result is the same whatever else is in the batch.
    mean = x.sum(-1).sum(-1, dtype=torch.float64).mul_(_grey_weights(x.device)).sum(1) / (x.shape[-1] * x.shape[-2])
    offset = mean.to(torch.float32)[:, None, None, None] * _column(values, 1)
    return x.mul_(_column(values)).add_(offset).clamp_(0.0, 255.0)


def saturation(x: Tensor, values: Tensor, threshold: float = 0.0) -> Tensor:
    """Mixes with the grey image; values: factor, 1 - factor."""
    grey = _grey_plane(x).mul_(_column(values, 1))
    return x.mul_(_column(values)).add_(grey).clamp_(0.0, 255.0)


def hue(x: Tensor, values: Tensor, threshold: float = 0.0) -> Tensor:
    """Turns the hue in HSV space (exact, in closed form); values: shift in turns, in [-0.5, 0.5].

    With largest channel M, smallest m and c = M - m, the hue counted in sixths of a turn from red is
    ``+-(1 + (g + b - r - m) / c)`` with the sign of g - b, and a channel whose own hue is k (red 0, green 2, blue -2)
    becomes ``m + c * clip(2 - distance(hue, k), 0, 1)``: no case distinction, no trip to HSV and back.
    """
    red, green, blue = x[:, 0:1], x[:, 1:2], x[:, 2:3]
    shape = (x.shape[0], 1, *x.shape[2:])
    low, chroma, work, angle = (scratch(name, shape, x.device) for name in ("low", "chroma", "work", "angle"))
    torch.minimum(torch.minimum(red, green, out=low), blue, out=low)
    torch.maximum(torch.maximum(red, green, out=chroma), blue, out=chroma).sub_(low)
    torch.clamp(chroma, min=1e-6, out=work)
    torch.add(green, blue, out=angle).sub_(red).sub_(low).div_(work).add_(1.0)
    torch.copysign(angle, torch.sub(green, blue, out=work), out=angle).add_(_column(values) * 6.0)  # in [-6, 6]
    angle.sub_(torch.mul(angle, 1.0 / 6.0, out=work).round_(), alpha=6.0)  # in [-3, 3]
    torch.abs(angle, out=red)
    torch.sub(angle, 2.0, out=green)
    torch.add(angle, 2.0, out=blue)
    x[:, 1:].abs_()
    # For arguments in [-5, 5] this is 1 + clip(2 - distance on the circle, 0, 1); the 1 is taken from low.
    return x.sub_(3.0).abs_().clamp_(1.0, 2.0).mul_(chroma).add_(low.sub_(chroma))


def greyscale(x: Tensor, values: Tensor, threshold: float = 0.0) -> Tensor:
    """The grey value in all three channels; values unused."""
    return x.copy_(_grey_plane(x).expand_as(x))


def solarise(x: Tensor, values: Tensor, threshold: float = 128.0) -> Tensor:
    """Inverts what is not below the threshold; values unused."""
    return x.copy_(torch.where(x >= threshold, 255.0 - x, x))


def blur(x: Tensor, values: Tensor, threshold: float = 0.0) -> Tensor:
    """Gaussian blur, edges reflected; values: the kernel from the centre on (:func:`blur_kernels`)."""
    return _blur_banded(x, values) if x.device.type == "cpu" else x.copy_(_blur_grouped(x, values))


def _blur_grouped(x: Tensor, kernels: Tensor) -> Tensor:
    """Two depthwise convolutions: what accelerators do well."""
    rows, channels, height, width = x.shape
    radius = kernels.shape[1] - 1
    taps = torch.cat([kernels.flip(1)[:, :-1], kernels], 1).repeat_interleave(channels, 0)[:, None, None]
    x = F.pad(x, (radius,) * 4, mode="reflect").view(1, rows * channels, height + 2 * radius, width + 2 * radius)
    x = F.conv2d(x, taps, groups=rows * channels)
    x = F.conv2d(x, taps.transpose(2, 3), groups=rows * channels)
    return x.view(rows, channels, height, width)


def _blur_banded(x: Tensor, kernels: Tensor) -> Tensor:
    """Small matrix products over overlapping blocks, in place: several times as fast as convolutions on a CPU.

    Sixteen output pixels depend on 16 + 2 radius input pixels through one banded matrix, the same for every block.
    """
    rows, channels, height, width = x.shape
    planes, radius = rows * channels, kernels.shape[1] - 1
    span, across, down = _BLOCK + 2 * radius, -(-width // _BLOCK), -(-height // _BLOCK)
    band = F.pad(kernels, (0, 1))[:, _band_places(radius)]  # [R, span, block]
    lines = scratch("lines", (planes, height, across * _BLOCK + 2 * radius), x.device)
    columns = scratch("columns", (planes, down * _BLOCK + 2 * radius, across * _BLOCK), x.device)
    done = scratch("done", (rows, across, channels * height, _BLOCK), x.device)

    lines[:, :, radius : radius + width].copy_(x.view(planes, height, width))
    lines[:, :, width + 2 * radius :].zero_()  # what fills the last block must be finite; it is not used
    _reflect(lines, radius, width, 2)
    line = lines.shape[2]
    blocks = lines.as_strided((rows, across, channels * height, span), (channels * height * line, _BLOCK, line, 1))
    for row in range(rows):
        torch.bmm(blocks[row], band[row].expand(across, -1, -1), out=done[row])

    target = columns[:, radius : radius + height].view(rows, channels, height, across, _BLOCK)
    target.copy_(done.view(rows, across, channels, height, _BLOCK).permute(0, 2, 3, 1, 4))
    columns[:, height + 2 * radius :].zero_()
    _reflect(columns, radius, height, 1)
    plane, line, _ = columns.stride()
    blocks = columns.as_strided((planes, down, span, line), (plane, _BLOCK * line, line, 1))
    fits = (down * _BLOCK, across * _BLOCK) == (height, width)
    result = x.view(planes, down, _BLOCK, line) if fits else scratch("done", (planes, down, _BLOCK, line), x.device)
    for number in range(planes):
        torch.bmm(band[number // channels].t().expand(down, -1, -1), blocks[number], out=result[number])
    return x if fits else x.copy_(result.view(rows, channels, down * _BLOCK, line)[:, :, :height, :width])


@lru_cache(maxsize=64)
def _band_places(radius: int) -> Tensor:
    """[span, block] which tap connects an input pixel to an output pixel; radius + 1 = none."""
    place = torch.arange(_BLOCK + 2 * radius)[:, None] - radius - torch.arange(_BLOCK)[None]
    return place.abs().clamp(max=radius + 1)


def _reflect(x: Tensor, radius: int, length: int, dim: int) -> None:
    """Fills ``radius`` pixels on both sides of the ``length`` pixels that start at ``radius``, mirrored at the edge."""
    x.narrow(dim, 0, radius).copy_(x.narrow(dim, radius + 1, radius).flip(dim))
    x.narrow(dim, radius + length, radius).copy_(x.narrow(dim, length - 1, radius).flip(dim))


_OPERATIONS = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
    "greyscale": greyscale,
    "blur": blur,
    "solarise": solarise,
}
