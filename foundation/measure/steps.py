"""Training steps of a recipe on random views: how fast, how much memory, how much of the machine's rate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from foundation.encoders.attention import Attention, Backend
from foundation.measure.flops import Counted, count_flops
from foundation.measure.timing import Speed, growing, measure
from foundation.run.recipe import Recipe
from foundation.run.rehearsal import Rehearsal, random_batch


class Steps:
    """A recipe with its learner and optimizer, whose steps are measured at several batch sizes.

    Args:
        recipe: resolved.
        batch: samples per step, for the learning rate and where no other size is asked for.
        seed: of weights and views.
    """

    def __init__(self, recipe: Recipe, batch: int, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.recipe, self.batch, self.seed = recipe, batch, seed
        self.rehearsal = Rehearsal(recipe, batch)
        self.device = self.rehearsal.placement.device
        self._batches: dict[int, Any] = {}

    def use_attention(self, backend: Backend) -> None:
        """Let all attention of the learner be computed by a backend."""
        for module in self.rehearsal.learner.modules():
            if isinstance(module, Attention):
                module.backend = backend

    def step(self, size: int | None = None) -> None:
        """One optimiser step on ``size`` samples."""
        self.rehearsal(self.views(size or self.batch))

    def views(self, size: int) -> Any:
        """Random views of ``size`` samples on the device; those of the last size are kept."""
        if size not in self._batches:
            self._batches = {size: random_batch(self.recipe, size).to(self.device)}
        return self._batches[size]

    def speed(self, size: int | None = None, rounds: int = 5, warm_up: int = 3) -> Speed:
        """Time of optimiser steps on ``size`` samples."""
        return measure(lambda: self.step(size), self.device, rounds, warm_up)

    def flops(self, size: int | None = None) -> Counted:
        """Floating point operations of an optimiser step on ``size`` samples."""
        return count_flops(lambda: self.step(size), self.device)

    def growing(self, first: int, most: int, rounds: int = 3) -> Iterator[tuple[int, Speed | None]]:
        """Double the batch until it no longer fits; see :func:`foundation.measure.timing.growing`."""
        yield from growing(first, most, lambda size: self.speed(size, rounds, warm_up=2), self.forget)

    def forget(self) -> None:
        """Let go of gradients and views, behind a step that has failed."""
        self._batches.clear()
        self.rehearsal.optimizer.zero_grad()


@dataclass(frozen=True)
class Ceiling:
    """Rates that a step cannot exceed.

    Attributes:
        measured: floating point operations per second of a large matrix product in the step's precision, on this
            machine.
        published: what the maker of the GPU publishes; None where that is not known.
    """

    measured: float
    published: float | None


def figures(speed: Speed, samples: int, flops: int | None, ceiling: Ceiling) -> dict[str, Any]:
    """A row of a table about a step.

    Args:
        speed: of the step.
        samples: of the step.
        flops: of the step; None where they were not counted.
        ceiling: of the machine.
    """
    row: dict[str, Any] = {
        "batch": samples,
        "samples_per_second": samples / speed.seconds,
        "milliseconds": 1e3 * speed.seconds,
        "milliseconds_range": f"{1e3 * speed.fastest:.4g} to {1e3 * speed.slowest:.4g}",
        "peak_gib": None if speed.peak_bytes is None else speed.peak_bytes / 2**30,
    }
    if flops is not None:
        row["teraflop_per_second"] = 1e-12 * flops / speed.seconds
        row["MFU_of_measured_rate_%"] = 100 * flops / speed.seconds / ceiling.measured
        if ceiling.published:
            row["MFU_of_published_peak_%"] = 100 * flops / speed.seconds / ceiling.published
    return row


def ceiling_of(device: torch.device, gpu: str | None, size: int) -> Ceiling:
    """Measure what :class:`Ceiling` says, in bfloat16, with matrices of a side."""
    from foundation.measure.machine import matrix_rate, published_rate

    return Ceiling(matrix_rate(device, torch.bfloat16, size), published_rate(gpu))
