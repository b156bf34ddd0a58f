"""The journal: what a person sees of a run while it goes on, and what stays in its metrics."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from torch import Tensor

from foundation.parallel.collective import rank, sums_over_ranks, world_size
from foundation.printable import printable
from foundation.run.metrics import MetricsWriter
from foundation.run.run_folder import RunFolder
from foundation.voice import duration

_TIMES = 20
_SUMMED = "throughput/"


class Journal:
    """Progress bar, printed lines and metrics file; process 0 keeps them for all.

    Args:
        folder: of the run.
        name: of the run.
        step: optimiser steps done.
        last_step: at which the run ends.
        say: gets each line meant for a person.
    """

    def __init__(self, folder: RunFolder, name: str, step: int, last_step: int, say: Callable[[str], None]) -> None:
        from tqdm import tqdm

        self.folder, self.last_step, self.say = folder, last_step, say
        self._times: deque[tuple[int, float]] = deque(maxlen=_TIMES)  # step and moment of the last lines
        self._step = step
        self._first = rank() == 0
        self._metrics = MetricsWriter(folder.path, step) if self._first else None
        self._bar = tqdm(
            total=last_step, initial=step, unit="step", desc=printable(name), dynamic_ncols=True,
            disable=not (self._first and _can_show_a_bar()),
        )  # fmt: skip

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._quietly(self._bar.close)
        if self._metrics:
            self._metrics.close()

    def advance(self) -> None:
        """One more step is done."""
        self._step += 1
        if not self._times:  # the first step, which takes longer than the others, is not counted
            self._times.append((self._step, time.monotonic()))
        self._quietly(self._bar.update)

    def go_back(self, step: int) -> None:
        """Forget all lines after a step: the steps behind it are made again."""
        if self._metrics:
            self._metrics.close()
            self._metrics = MetricsWriter(self.folder.path, step)
        self._step = self._bar.n = step
        self._times.clear()
        self._quietly(self._bar.refresh)

    def _quietly(self, show: Callable[[], object]) -> None:
        """A terminal that is gone ends no run."""
        try:
            show()
        except OSError:
            self._bar.disable = True

    def line(self, step: int, values: Mapping[str, Tensor | float]) -> dict[str, float]:
        """Write the figures of a step, averaged over all processes (added up where they are a throughput).

        All processes must call this with the same names.

        Returns:
            The figures as written.
        """
        figures = sums_over_ranks({name: float(values[name]) for name in sorted(values)})
        figures = {k: v if k.startswith(_SUMMED) else v / world_size() for k, v in figures.items()}
        if self._metrics:
            self.folder.require_ours()
            self._metrics.write(step, {name: figures[name] for name in values})
            self._show(step, figures)
        return figures

    def note(self, step: int, figures: Mapping[str, float]) -> None:
        """Write figures that process 0 alone has measured."""
        if self._metrics:
            self._metrics.write(step, figures)
            listed = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            self._quietly(self._bar.clear)
            self.say(f"step {step:,}: {listed}")
            self._quietly(self._bar.refresh)

    def _show(self, step: int, figures: Mapping[str, Any]) -> None:
        wait = f"data wait {100 * figures['data/wait_fraction']:.0f} %"
        speed = f"{figures['throughput/samples_per_second']:.0f} samples/s"
        rate = f"learning rate {figures['schedule/learning_rate']:.2e}"
        epoch = f"epoch {figures['epoch']:.1f}"
        self._quietly(
            lambda: self._bar.set_postfix_str(f"{epoch}, loss {figures['loss']:.3f}, {rate}, {speed}, {wait}")
        )
        if self._bar.disable:
            self.say(
                f"step {step:,}/{self.last_step:,}: {epoch}, loss {figures['loss']:.4f}, {rate}, {speed}, {wait}"
                f"{self._left(step)}"
            )

    def _left(self, step: int) -> str:
        """How long the rest will take, going by the steps between the last lines."""
        now = time.monotonic()
        before, then = self._times[0] if self._times else (step, now)
        self._times.append((step, now))
        if before >= step or step >= self.last_step:
            return ""
        return f", {duration((self.last_step - step) * (now - then) / (step - before))} left"


def _can_show_a_bar() -> bool:
    """Whether standard error is a terminal that can go back in a line and knows its width; else lines are printed."""
    try:
        known = sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):
        return False
    return known and os.environ.get("TERM") != "dumb"
