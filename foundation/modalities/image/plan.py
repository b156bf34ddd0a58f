"""What happens to the colours of each view, in which order: drawn parameters become steps.

A CPU takes one row after the other, each with a program of its own (:class:`RowPlan`), so that a view stays in the
second-level cache from its first operation to its last. An accelerator takes all rows at once (:class:`BatchPlan`): the
numbers of the rows of each step and their values are tensors already, so that running it never asks the device anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.modalities.image.blur import blur_bands, blur_kernels, blur_radius

JITTER = ("brightness", "contrast", "saturation", "hue")


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


class Operation(NamedTuple):
    """One operation on one row.

    Attributes:
        name: of the function.
        values: factor, shift in sixths of a turn, threshold, or the right half of a kernel.
        turn: rows that have an operation of the same name at the same turn can take it together.
    """

    name: str
    values: list[float]
    turn: tuple[int, int, int]


Program: TypeAlias = tuple[tuple[str, Any], ...]
"""The names of the operations of one row and their values: a number, or a row of what
:func:`~foundation.modalities.image.blur.blur_bands` returns for ``blur``."""


@dataclass(frozen=True)
class RowPlan:
    """A program for each row, to be run on a CPU.

    Attributes:
        programs: one per row.
    """

    programs: tuple[Program, ...]

    def to(self, device: torch.device | str, non_blocking: bool = True) -> RowPlan:
        """Itself: this plan has nothing that a device could hold."""
        return self

    def pin_memory(self) -> RowPlan:
        return self


@dataclass(frozen=True)
class Step:
    """One operation on some rows of a batch.

    Attributes:
        operation: name of the function.
        rows: interval of ``BatchPlan.integers``; None = every row.
        values: interval of ``BatchPlan.floats``.
        width: values per row.
    """

    operation: str
    rows: tuple[int, int] | None
    values: tuple[int, int]
    width: int


@dataclass(frozen=True)
class BatchPlan:
    """Steps for all rows at once, to be run on an accelerator.

    Attributes:
        steps: in the order in which they are applied.
        integers: int64, row numbers.
        floats: float32, values.
    """

    steps: tuple[Step, ...]
    integers: Tensor
    floats: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = True) -> BatchPlan:
        return replace(
            self,
            integers=self.integers.to(device, non_blocking=non_blocking),
            floats=self.floats.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> BatchPlan:
        return replace(self, integers=self.integers.pin_memory(), floats=self.floats.pin_memory())


Plan: TypeAlias = RowPlan | BatchPlan


def make_plan(
    parameters: Parameters, size: int, radius: int = 0, threshold: float = 128.0, batched: bool = False
) -> Plan:
    """Orders the work.

    Args:
        parameters: of R rows.
        size: side of the views, pixels.
        radius: of the blur, pixels; 0: see :func:`~foundation.modalities.image.blur.blur_radius`.
        threshold: solarise inverts values from here on, in levels of 255.
        batched: False makes a program for each row (CPU), True makes steps for all rows at once (accelerator).

    Returns:
        The plan. What a row's pixels become does not depend on the other rows, and on ``batched`` only by rounding.
    """
    programs = _programs(parameters, radius, threshold)
    if batched:
        return _merged(programs)
    bands = _bands(programs, size)
    return RowPlan(
        tuple(
            tuple((name, bands[row] if name == "blur" else values[0]) for name, values, _ in program)
            for row, program in enumerate(programs)
        )
    )


def _bands(programs: list[list[Operation]], size: int) -> dict[int, NDArray[np.float32]]:
    """The matrices of each row that is blurred; made for all rows of one radius at once."""
    kernels: dict[int, dict[int, list[float]]] = {}
    for row, program in enumerate(programs):
        for name, values, _ in program:
            if name == "blur":
                kernels.setdefault(len(values), {})[row] = values
    bands: dict[int, NDArray[np.float32]] = {}
    for rows in kernels.values():
        bands.update(zip(rows, blur_bands(np.array(list(rows.values()), np.float32), size), strict=True))
    return bands


def _programs(parameters: Parameters, radius: int, threshold: float) -> list[list[Operation]]:
    """The operations of each row. Works on plain lists: a row has few values, and numpy's calls would cost more."""
    order, factors = parameters.order.tolist(), parameters.factors.tolist()
    greyscale, blur, solarise = (flags.tolist() for flags in (parameters.greyscale, parameters.blur, parameters.solarise))
    radii: list[int] = []
    kernels: list[list[float]] = []
    if any(blur):
        sigma = np.where(parameters.blur, parameters.sigma, 1e-3)
        radii, kernels = blur_radius(sigma, radius).tolist(), blur_kernels(sigma, radius).tolist()
    programs = []
    for row, jitter in enumerate(parameters.jitter.tolist()):
        program: list[Operation] = []
        if jitter:
            for turn, number in enumerate(order[row]):
                name, value, parts = JITTER[number], factors[row][number], 1
                if name == "hue":  # which goes a sixth of a turn at most in one step
                    parts = math.ceil(6.0 * abs(value))
                    value = 6.0 * value / max(parts, 1)
                elif value == 1.0:
                    continue
                program += [Operation(name, [value], (turn, number, part)) for part in range(parts)]
        if greyscale[row]:
            program.append(Operation("greyscale", [0.0], (4, 0, 0)))
        if blur[row]:
            program.append(Operation("blur", kernels[row][: radii[row] + 1], (5, 0, 0)))
        if solarise[row]:
            program.append(Operation("solarise", [threshold], (6, 0, 0)))
        programs.append(program)
    return programs


def _merged(programs: list[list[Operation]]) -> BatchPlan:
    """Steps of all rows that have the same operation at the same turn."""
    merged: dict[tuple[int, int, int], list[tuple[int, Operation]]] = {}
    for row, program in enumerate(programs):
        for operation in program:
            merged.setdefault(operation.turn, []).append((row, operation))
    steps: list[Step] = []
    integers: list[int] = []
    floats: list[float] = []
    for turn in sorted(merged):
        chosen, rows = merged[turn], None
        if len(chosen) < len(programs):
            rows = (len(integers), len(integers) + len(chosen))
            integers += [row for row, _ in chosen]
        start, width = len(floats), max(len(operation.values) for _, operation in chosen)
        for _, operation in chosen:
            floats += operation.values + [0.0] * (width - len(operation.values))
        steps.append(Step(chosen[0][1].name, rows, (start, len(floats)), width))
    return BatchPlan(
        tuple(steps), torch.tensor(integers, dtype=torch.int64), torch.tensor(floats, dtype=torch.float32)
    )
