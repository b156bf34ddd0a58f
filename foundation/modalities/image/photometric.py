"""The photometric half of the views: colour jitter, greyscale, blur, solarise, normalise, as one tensor program.

The parameters are drawn on the host; :func:`make_plan` turns them into steps whose row numbers and values are already
tensors, so that running the plan (:func:`run_plan`) never asks the device anything. On a CPU the rows are cut into
small groups with the same steps, which stay in the second-level cache; an accelerator gets all rows at once.

Pixels are float32 in [0, 255] between the steps, clipped as torchvision clips them, never rounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

RED, GREEN, BLUE = 0.299, 0.587, 0.114
"""Weights of the grey value (ITU-R BT.601, as in Pillow)."""
JITTER = ("brightness", "contrast", "saturation", "hue")
_CACHE_PIXELS = 224 * 224
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
        integers: int64, row numbers.
        floats: float32, values.
    """

    groups: tuple[tuple[tuple[int, int], tuple[Step, ...]], ...]
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


class _Buffer:
    """Grows one flat array; remembers where each piece lies."""

    def __init__(self) -> None:
        self.pieces: list[NDArray] = []
        self.length = 0

    def add(self, values: NDArray) -> tuple[int, int]:
        start = self.length
        self.pieces.append(np.ravel(values))
        self.length += values.size
        return start, self.length

    def tensor(self, dtype: torch.dtype) -> Tensor:
        joined = np.concatenate(self.pieces) if self.pieces else np.zeros(0)
        return torch.from_numpy(joined).to(dtype)


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
    integers, floats = _Buffer(), _Buffer()
    groups: list[tuple[tuple[int, int], tuple[Step, ...]]] = []
    if count == 0:
        return Plan((), integers.tensor(torch.int64), floats.tensor(torch.float32))
    if grouped:
        length = max(1, _CACHE_PIXELS // (size * size))
        radii = np.where(parameters.blur, blur_radius(parameters.sigma, radius), 0)
        permutation = np.where(parameters.jitter, parameters.order @ np.array([64, 16, 4, 1]), -1)
        rank = np.lexsort((parameters.solarise, parameters.greyscale, radii, permutation))
        pieces = [rank[i : i + length] for i in range(0, count, length)]
    else:
        pieces = [np.arange(count)]
    for rows in pieces:
        steps = tuple(_steps(parameters, rows, radius, integers, floats))
        groups.append((integers.add(rows), steps))
    return Plan(tuple(groups), integers.tensor(torch.int64), floats.tensor(torch.float32))


def _steps(
    parameters: Parameters, rows: NDArray[np.int64], radius: int, integers: _Buffer, floats: _Buffer
) -> list[Step]:
    steps: list[Step] = []

    def add(operation: str, chosen: NDArray[np.bool_], values: NDArray) -> None:
        places = np.flatnonzero(chosen)
        if len(places) == 0:
            return
        interval = None if len(places) == len(rows) else integers.add(places)
        taken = values[places]
        steps.append(Step(operation, interval, floats.add(taken), 1 if taken.ndim == 1 else taken.shape[1]))

    jitter, order, factors = parameters.jitter[rows], parameters.order[rows], parameters.factors[rows]
    neutral = np.array([1.0, 1.0, 1.0, 0.0])
    for turn in range(len(JITTER)):
        for number, name in enumerate(JITTER):
            chosen = jitter & (order[:, turn] == number) & (factors[:, number] != neutral[number])
            add(name, chosen, factors[:, number])
    add("greyscale", parameters.greyscale[rows], np.zeros(len(rows)))
    blur = parameters.blur[rows]
    if blur.any():
        kernels = blur_kernels(np.where(blur, parameters.sigma[rows], 1e-3), radius)
        add("blur", blur, kernels)
    add("solarise", parameters.solarise[rows], np.zeros(len(rows)))
    return steps


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
    scale = [1.0 / (255.0 * s) for s in std]
    shift = [-m / s for m, s in zip(mean, std, strict=True)]
    constants = _affine_constants(tuple(scale), tuple(shift), pixels.device)
    for (start, stop), steps in plan.groups:
        whole = len(plan.groups) == 1
        rows = plan.integers[start:stop]
        x = pixels if whole else pixels.index_select(0, rows)
        x = x.to(torch.float32, copy=True)
        for step in steps:
            x = _apply(x, step, plan, threshold)
        x = _normalise(x, constants)
        if whole:
            return x
        out.index_copy_(0, rows, x)
    return out


def _apply(x: Tensor, step: Step, plan: Plan, threshold: float) -> Tensor:
    values = plan.floats[slice(*step.values)]
    if step.rows is None:
        return _OPERATIONS[step.operation](x, values.view(x.shape[0], step.width), threshold)
    rows = plan.integers[slice(*step.rows)]
    part = _OPERATIONS[step.operation](x.index_select(0, rows), values.view(-1, step.width), threshold)
    return x.index_copy_(0, rows, part)


_CONSTANTS: dict[tuple, tuple[Tensor, Tensor]] = {}


def _affine_constants(scale: tuple[float, ...], shift: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    key = (scale, shift, device)
    if key not in _CONSTANTS:
        _CONSTANTS[key] = (
            torch.tensor(scale, device=device).view(1, -1, 1, 1),
            torch.tensor(shift, device=device).view(1, -1, 1, 1),
        )
    return _CONSTANTS[key]


def _normalise(x: Tensor, constants: tuple[Tensor, Tensor]) -> Tensor:
    return x.mul_(constants[0]).add_(constants[1])


def _column(values: Tensor) -> Tensor:
    return values[:, :1, None, None]


def grey_plane(x: Tensor) -> Tensor:
    """[R, 1, H, W] grey values of [R, 3, H, W]."""
    grey = x[:, 0:1] * RED
    return grey.add_(x[:, 1:2], alpha=GREEN).add_(x[:, 2:3], alpha=BLUE)


def brightness(x: Tensor, factor: Tensor, threshold: float = 0.0) -> Tensor:
    """Mixes with black; in place. x [R, 3, H, W], factor [R, 1]; as all operations here."""
    return x.mul_(_column(factor)).clamp_(0.0, 255.0)


def contrast(x: Tensor, factor: Tensor, threshold: float = 0.0) -> Tensor:
    """Mixes with the mean grey value of the whole view; in place."""
    # Sums line by line first: the result is then the same whatever else is in the batch.
    sums = x.sum(-1).sum(-1, dtype=torch.float64) / (x.shape[-1] * x.shape[-2])  # [R, 3]
    mean = (sums[:, 0] * RED + sums[:, 1] * GREEN + sums[:, 2] * BLUE).to(torch.float32)[:, None]
    return x.mul_(_column(factor)).add_(_column(mean * (1.0 - factor))).clamp_(0.0, 255.0)


def saturation(x: Tensor, factor: Tensor, threshold: float = 0.0) -> Tensor:
    """Mixes with the grey image; in place."""
    grey = grey_plane(x).mul_(1.0 - _column(factor))
    return x.mul_(_column(factor)).add_(grey).clamp_(0.0, 255.0)


def hue(x: Tensor, shift: Tensor, threshold: float = 0.0) -> Tensor:
    """Turns the hue in HSV space (exact, in closed form); in place.

    With largest channel M, smallest m and c = M - m, the hue counted in sixths of a turn from red is
    ``+-(1 + (g + b - r - m) / c)`` with the sign of g - b, and a channel whose own hue is k (red 0, green 2, blue -2)
    becomes ``m + c * clip(2 - distance(hue, k), 0, 1)``: no case distinction, no trip to HSV and back.
    """
    red, green, blue = x[:, 0:1], x[:, 1:2], x[:, 2:3]
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = torch.maximum(torch.maximum(red, green), blue).sub_(low)
    angle = (green + blue).sub_(red).sub_(low).div_(chroma.clamp(min=1e-6)).add_(1.0)
    angle = torch.copysign(angle, green - blue).add_(_column(shift) * 6.0)  # in [-6, 6]
    angle.sub_(torch.round(angle * (1.0 / 6.0)), alpha=6.0)  # in [-3, 3]
    red.copy_(angle)
    torch.sub(angle, 2.0, out=green)
    torch.add(angle, 2.0, out=blue)
    # 2 - distance on the circle, for arguments in [-5, 5]
    return x.abs_().sub_(3.0).abs_().sub_(1.0).clamp_(0.0, 1.0).mul_(chroma).add_(low)


def greyscale(x: Tensor, unused: Tensor, threshold: float = 0.0) -> Tensor:
    """The grey value in all three channels; in place."""
    return x.copy_(grey_plane(x).expand_as(x))


def solarise(x: Tensor, unused: Tensor, threshold: float = 128.0) -> Tensor:
    """Inverts the values from the threshold on."""
    return torch.where(x >= threshold, 255.0 - x, x)


def blur(x: Tensor, kernels: Tensor, threshold: float = 0.0) -> Tensor:
    """Gaussian blur with one kernel per row, edges reflected.

    Args:
        x: [R, 3, H, W].
        kernels: [R, radius + 1], from the centre on (:func:`blur_kernels`).
        threshold: unused.

    Returns:
        [R, 3, H, W].
    """
    return _blur_banded(x, kernels) if x.device.type == "cpu" else _blur_grouped(x, kernels)


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
    """Small matrix products over overlapping blocks: a few times as fast as depthwise convolutions on a CPU.

    Sixteen output pixels depend on 16 + 2 radius input pixels through one banded matrix, the same for every block.
    """
    rows, channels, height, width = x.shape
    radius = kernels.shape[1] - 1
    span = _BLOCK + 2 * radius
    distance = (torch.arange(span)[:, None] - radius - torch.arange(_BLOCK)[None]).abs()  # [span, block]
    band = torch.cat([kernels, kernels.new_zeros(rows, 1)], 1)[:, distance.clamp(max=radius + 1)]  # [R, span, block]
    out = torch.empty_like(x)
    across, down = math.ceil(width / _BLOCK), math.ceil(height / _BLOCK)
    lines = x.new_zeros(channels, height, across * _BLOCK + 2 * radius)
    columns = x.new_zeros(channels, down * _BLOCK + 2 * radius, width)
    for row in range(rows):
        _pad_reflect(lines, x[row], radius, 2)
        blocks = lines.as_strided((across, channels * height, span), (_BLOCK, lines.shape[2], 1))
        done = torch.bmm(blocks, band[row].expand(across, -1, -1)).view(across, channels, height, _BLOCK)
        done = done.permute(1, 2, 0, 3).reshape(channels, height, across * _BLOCK)[:, :, :width]
        _pad_reflect(columns, done, radius, 1)
        stride = columns.shape[1] * width
        turned = band[row].t().expand(down, -1, -1)
        for channel in range(channels):
            blocks = columns.as_strided((down, span, width), (_BLOCK * width, width, 1), channel * stride)
            out[row, channel] = torch.bmm(turned, blocks).view(down * _BLOCK, width)[:height]
    return out


def _pad_reflect(target: Tensor, x: Tensor, radius: int, dim: int) -> None:
    length = x.shape[dim]
    target.narrow(dim, radius, length).copy_(x)
    target.narrow(dim, 0, radius).copy_(x.narrow(dim, 1, radius).flip(dim))
    target.narrow(dim, radius + length, radius).copy_(x.narrow(dim, length - 1 - radius, radius).flip(dim))


_OPERATIONS = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
    "greyscale": greyscale,
    "blur": blur,
    "solarise": solarise,
}
