"""What happens to the colours of each view, in which order: drawn parameters become steps.

A CPU takes one row after the other, each with a program of its own (:class:`RowPlan`), so that a view stays in the
second-level cache from its first operation to its last. An accelerator takes all rows at once (:class:`BatchPlan`):
which rows a step takes and their values are tensors already, so that running it never asks the device anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

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


def untouched(rows: int) -> Parameters:
    """Nothing happens to any row."""
    never = np.zeros(rows, bool)
    return Parameters(
        order=np.tile(np.arange(len(JITTER)), (rows, 1)), factors=np.tile([1.0, 1.0, 1.0, 0.0], (rows, 1)),
        jitter=never, greyscale=never, blur=never, sigma=np.ones(rows), solarise=never,
    )  # fmt: skip


Program: TypeAlias = list[tuple[str, Any]]
"""The names of the operations of one row and their values: a number, or a row of what
:func:`~foundation.modalities.image.blur.blur_bands` returns for ``blur``."""


@dataclass(frozen=True)
class RowPlan:
    """What happens to each row, on a CPU. The programs are made where they are run: they are many small things.

    Attributes:
        choices: [R, 8] int64; the columns of ``Parameters.order``, then jitter, greyscale, blur, solarise (0 or 1).
        numbers: [R, 6] float64; the columns of ``Parameters.factors``, then sigma and the threshold of solarise.
        size: side of the views, pixels.
        radius: of the blur, pixels, or 0.
    """

    choices: Tensor
    numbers: Tensor
    size: int
    radius: int

    def programs(self) -> list[Program]:
        """One for each row."""
        choices, numbers = self.choices.numpy(), self.numbers.numpy()
        jitter, greyscale, blur, solarise = choices[:, 4:].T != 0
        parameters = Parameters(choices[:, :4], numbers[:, :4], jitter, greyscale, blur, numbers[:, 4], solarise)
        programs, kernels = _programs(parameters, self.radius, numbers[:, 5].tolist())
        _make_bands(programs, kernels, self.size)
        return programs

    def to(self, device: torch.device | str, non_blocking: bool = True) -> RowPlan:
        """Itself: it is read on the host."""
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
    if batched:
        return _merged(*_programs(parameters, radius, [threshold] * len(parameters.jitter)))
    p = parameters
    choices = np.column_stack([p.order, p.jitter, p.greyscale, p.blur, p.solarise]).astype(np.int64)
    numbers = np.column_stack([p.factors, p.sigma, np.full(len(p.sigma), threshold)])
    return RowPlan(torch.from_numpy(choices), torch.from_numpy(numbers), size, radius)


def _programs(
    parameters: Parameters, radius: int, thresholds: list[float]
) -> tuple[list[Program], dict[int, list[float]]]:
    """The operations of each row, and the kernel of each row that is blurred.

    Works on plain lists: a row has few values, and NumPy's calls would cost more.
    """
    programs: list[Program] = []
    order, factors = parameters.order.tolist(), parameters.factors.tolist()
    greyscale, blur, solarise = parameters.greyscale.tolist(), parameters.blur.tolist(), parameters.solarise.tolist()
    for row, jitter in enumerate(parameters.jitter.tolist()):
        program: Program = []
        if jitter:
            for number in order[row]:
                name, value = JITTER[number], factors[row][number]
                if name == "hue":
                    turns = math.ceil(6.0 * abs(value))  # it goes a sixth of a turn at most at once
                    program += [(name, 6.0 * value / max(turns, 1))] * turns
                elif value != 1.0:
                    program.append((name, value))
        if greyscale[row]:
            program.append(("greyscale", 0.0))
        if blur[row]:
            program.append(("blur", None))
        if solarise[row]:
            program.append(("solarise", thresholds[row]))
        programs.append(program)
    blurred = np.flatnonzero(parameters.blur)
    if not len(blurred):
        return programs, {}
    sigma = parameters.sigma[blurred]
    lengths, halves = (blur_radius(sigma, radius) + 1).tolist(), blur_kernels(sigma, radius).tolist()
    kernels = {row: half[:length] for row, half, length in zip(blurred.tolist(), halves, lengths, strict=True)}
    return programs, kernels


def _make_bands(programs: list[Program], kernels: dict[int, list[float]], size: int) -> None:
    """Puts the matrices of each blur into the programs; made for all rows of one radius at once."""
    rows: dict[int, list[int]] = {}
    for row, kernel in kernels.items():
        rows.setdefault(len(kernel), []).append(row)
    for some in rows.values():
        bands = blur_bands(np.array([kernels[row] for row in some], np.float32), size)
        for row, matrices in zip(some, bands, strict=True):
            program = programs[row]
            program[program.index(("blur", None))] = ("blur", matrices)


def _merged(programs: list[Program], kernels: dict[int, list[float]]) -> BatchPlan:
    """Steps of all rows that have the same operation at the same place of their programs."""
    after = {"greyscale": 1, "blur": 2, "solarise": 3}  # these come last, together, wherever they are in a program
    places: dict[tuple[int, int, str], list[tuple[int, Any]]] = {}
    for row, program in enumerate(programs):
        for index, (name, value) in enumerate(program):
            last = after.get(name, 0)
            places.setdefault((last, 0 if last else index, name), []).append((row, value))
    steps: list[Step] = []
    integers: list[int] = []
    floats: list[float] = []
    for key in sorted(places):
        name, chosen, rows = key[2], places[key], None
        if len(chosen) < len(programs):
            rows = (len(integers), len(integers) + len(chosen))
            integers += [row for row, _ in chosen]
        values = [kernels[row] if name == "blur" else [value] for row, value in chosen]
        start, width = len(floats), max(map(len, values))
        for value in values:
            floats += value + [0.0] * (width - len(value))
        steps.append(Step(name, rows, (start, len(floats)), width))
    return BatchPlan(tuple(steps), torch.tensor(integers, dtype=torch.int64), torch.tensor(floats, dtype=torch.float32))
