"""A step whose values are still on the device: the trainer reads them when the next step has been queued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from foundation.engine.accumulate import Accumulated
from foundation.engine.collapse import is_look
from foundation.engine.reading import Reading
from foundation.run.guard import BAD_ON, MEAN_LOSS, NumericsGuard

LOSS, NORM, PART = "loss", "gradient/norm", "loss/"
"""Names in the metrics: of the loss, of the gradient's norm, and before the names of objectives."""


@dataclass(frozen=True)
class LateStep:
    """One step, done as far as the host knows.

    Attributes:
        step: of the run, from 0.
        of_stage: of the stage, from 0.
        keys: of this process's samples.
        reading: its values.
        beside: what is logged beside its own figures; None where the step is not logged.
    """

    step: int
    of_stage: int
    keys: Sequence[str]
    reading: Reading
    beside: Mapping[str, float] | None

    def read(self) -> LateValues:
        """Wait for the step, which the device has left behind by now."""
        return LateValues(self, self.reading.get())


class LateValues:
    """What a step was, read.

    Attributes:
        loss: mean over all processes.
        figures: loss of this process, its parts and whatever else is logged of the step itself.
    """

    def __init__(self, late: LateStep, values: dict[str, float]) -> None:
        self._late, self.loss, self._bad_on = late, values.pop(MEAN_LOSS), values.pop(BAD_ON)
        self.figures: Mapping[str, float] = values

    def judge(self, guard: NumericsGuard, checkpoint: Path | None) -> Literal["go", "skip", "rewind"]:
        """What the guard says of it; see :meth:`foundation.run.guard.NumericsGuard.judge`."""
        parts = {name.removeprefix(PART): value for name, value in self.figures.items() if name.startswith(PART)}
        norm, late = self.figures[NORM], self._late
        return guard.judge(late.step, self.loss, norm, parts, late.keys, self._bad_on > 0, checkpoint)


def late_step(
    step: int,
    of_stage: int,
    result: Accumulated,
    norm: Tensor,
    told: Mapping[str, Tensor],
    schedules: Mapping[str, float],
    beside: Mapping[str, float] | None,
) -> LateStep:
    """Send the values of a step on their way. Figures go only where somebody looks: the log or the collapse watch.

    Args:
        step: of the run, from 0.
        of_stage: of the stage, from 0.
        result: of its forward and backward pass.
        norm: of its gradients.
        told: what the guard wants read.
        schedules: values in force, by name in the metrics.
        beside: see :class:`LateStep`.
    """
    figures: dict[str, Any] = result.figures if beside is not None or is_look(result.figures) else {}
    parts = {f"{PART}{name}": value for name, value in result.parts.items()}
    values = {LOSS: result.loss, **parts, **figures, NORM: norm, **schedules, **told}
    return LateStep(step, of_stage, result.keys, Reading(values), beside)
