"""Schedules as pure functions of the optimiser step, so that nothing needs saving to resume one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from foundation.errors import UserError
from foundation.ranges import Number, Range

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


LONGEST = {"steps": 1e9, "epochs": 1e6, "%": 1e4}
"""Largest duration in each unit."""


@dataclass(frozen=True)
class Duration:
    """A length of training: ``10 epochs``, ``500 steps`` or ``5%`` of the run."""

    amount: float
    unit: Literal["steps", "epochs", "%"] = "steps"

    @classmethod
    def from_yaml(cls, value: object) -> Duration:
        """Read ``500``, ``"500 steps"``, ``"10 epochs"`` or ``"5%"``.

        Raises:
            UserError: for anything else, and for more than :data:`LONGEST`.
        """
        text = str(value).strip()
        number, unit = (text[:-1], "%") if text.endswith("%") else [*text.split(" ", 1), "steps"][:2]
        unit = {"step": "steps", "epoch": "epochs"}.get(unit.strip(), unit.strip())
        try:
            amount = float(number)
        except ValueError:
            amount = math.nan
        if unit not in ("steps", "epochs", "%") or not amount >= 0 or math.isinf(amount):
            raise UserError(f"expected a duration such as '500 steps', '10 epochs' or '5%', got {value!r}")
        if amount > LONGEST[unit]:
            longest = cls(LONGEST[unit], unit)  # type: ignore[arg-type]
            raise UserError(f"a duration is at most {longest.to_yaml()}, got {value!r}")
        return cls(amount, unit)  # type: ignore[arg-type]

    def numbers(self) -> tuple[float, ...]:
        """The amount."""
        return (self.amount,)

    def shown(self) -> str:
        """As it is written in a recipe."""
        return self.to_yaml()

    def to_yaml(self) -> str:
        number = str(int(self.amount)) if self.amount == int(self.amount) else repr(self.amount)
        return f"{number}%" if self.unit == "%" else f"{number} {self.unit}"

    def steps(self, clock: Clock) -> int:
        """Whole optimiser steps of this duration in a run."""
        scale = {"steps": 1.0, "epochs": clock.steps_per_epoch, "%": clock.total_steps / 100.0}[self.unit]
        return round(self.amount * scale)


@dataclass(frozen=True)
class Clock:
    """Length of a run, to turn durations into steps."""

    total_steps: int
    steps_per_epoch: float


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One number over the run. A plain number in a recipe is a constant schedule.

    ``frozen`` steps of zero, then a linear warm-up from ``warmup_from`` to ``start`` (both ends included, as in DINO
    and DINOv2: the value ``start`` appears twice), then from ``start`` to ``end`` by ``shape``. After the last step
    the value stays at ``end``.
    """

    start: Number
    """Value after the warm-up."""
    end: Number | None = None
    """Last value; None keeps ``start``."""
    shape: Literal["cosine", "linear", "constant"] = "cosine"
    """Way from ``start`` to ``end``; ``constant`` ignores ``end``."""
    warmup: Duration = Duration(0)
    """Length of the linear warm-up."""
    warmup_from: Number = 0.0
    """Value at the first step of the warm-up."""
    frozen: Duration = Duration(0)
    """Length of an initial stretch of zeros."""
    length: Duration | None = None
    """Schedule length when it differs from the run's (a truncated cosine); None: the run."""

    @classmethod
    def from_yaml(cls, value: object) -> Schedule | None:
        """A constant for a plain number, None (meaning: read the fields) for anything else."""
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                return cls(start=float(value), shape="constant")
            except OverflowError:
                return cls(start=math.inf, shape="constant")  # which no range holds
        return None

    def numbers(self) -> tuple[float, ...]:
        """Every value that it takes is one of these or between two of them."""
        before = ((0.0,) if self.frozen.amount else ()) + ((self.warmup_from,) if self.warmup.amount else ())
        return (*before, self.start) if self.end is None else (*before, self.start, self.end)

    def shown(self) -> str:
        """The plain number of a constant, else the ends of its parts."""
        if self.to_yaml() is not None:
            return f"{self.start:g}"
        return "a schedule through " + ", ".join(f"{number:g}" for number in self.numbers())

    def to_yaml(self) -> float | None:
        """The plain number for a constant, None (meaning: write the fields) for anything else."""
        return self.start if self == Schedule(start=self.start, shape="constant") else None

    def at(self, step: int, clock: Clock) -> float:
        """Value used by optimiser step ``step`` (0 for the first)."""
        frozen, warmup = self.frozen.steps(clock), self.warmup.steps(clock)
        total = clock.total_steps if self.length is None else self.length.steps(clock)
        end = self.start if self.end is None or self.shape == "constant" else self.end
        if step < frozen:
            return 0.0
        if step < frozen + warmup:
            share = (step - frozen) / (warmup - 1) if warmup > 1 else 0.0
            return self.warmup_from + (self.start - self.warmup_from) * share
        remaining = total - frozen - warmup
        share = (step - frozen - warmup) / remaining if remaining > 0 else 1.0
        if share >= 1.0:
            return end
        if self.shape == "linear":
            return self.start + (end - self.start) * share
        return end + (self.start - end) * 0.5 * (1.0 + math.cos(math.pi * share))

    def values(self, steps: int, clock: Clock) -> NDArray[np.float64]:
        """[steps] float64, :meth:`at` of the first so many steps at once (equal up to rounding)."""
        import numpy as np

        step = np.arange(steps)
        frozen, warmup = self.frozen.steps(clock), self.warmup.steps(clock)
        total = clock.total_steps if self.length is None else self.length.steps(clock)
        end = self.start if self.end is None or self.shape == "constant" else self.end
        rise = self.warmup_from + (self.start - self.warmup_from) * (step - frozen) / max(warmup - 1, 1)
        remaining = total - frozen - warmup
        share = np.clip((step - frozen - warmup) / remaining, 0.0, 1.0) if remaining > 0 else np.ones(steps)
        if self.shape == "linear":
            main = self.start + (end - self.start) * share
        else:
            main = end + (self.start - end) * 0.5 * (1.0 + np.cos(np.pi * share))
        return np.where(step < frozen, 0.0, np.where(step < frozen + warmup, rise, np.where(share >= 1.0, end, main)))


Weight: TypeAlias = Annotated[float, Range(-1e6, 1e6)] | Annotated[Schedule, Range(-1e6, 1e6)]
"""Factor on a loss: one number or a schedule."""
