"""How long encoders take for one sample: the median of interleaved runs, and how far those lie apart."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from foundation.encoders.elastic import SubNetwork
from foundation.parallel.placement import processor
from foundation.voice import plural

WARM_UP, RUNS = 3, 31
"""Runs of each encoder that are not counted, and that are."""
UNSTEADY = 0.25
"""Spread, as a share of the median, from which on a time says more of the machine than of the encoder."""
ORDER, HASTY_ORDER = 1.1, 1.5
"""A network that takes so many times as long as one that contains it has not been timed by itself; the second of times
taken in passing."""


@dataclass(frozen=True)
class Timing:
    """How long an encoder takes for one sample.

    Attributes:
        seconds: median.
        spread: of the middle half of the runs, in seconds (interquartile range).
        runs: that count.
    """

    seconds: float
    spread: float
    runs: int

    @property
    def unsteady(self) -> bool:
        """Whether what else the machine did shows in it."""
        return self.spread > UNSTEADY * self.seconds

    def shown(self) -> tuple[str, str, str]:
        """Median, spread and runs for the cells of a table."""
        return milliseconds(self.seconds), milliseconds(self.spread), str(self.runs)


def milliseconds(seconds: float) -> str:
    """0.00512 -> ``5.12 ms``."""
    return f"{1000 * seconds:.3g} ms"


@dataclass(frozen=True)
class Stopwatch:
    """Where and on what encoders are timed.

    Attributes:
        device: that computes.
        shape: of the view, without rows; one row is encoded, in float32.
    """

    device: torch.device
    shape: tuple[int, ...]

    @property
    def setting(self) -> str:
        """What a figure was measured on, for a person."""
        where = processor(self.device if self.device.type == "cuda" else None)
        threads = torch.get_num_threads()
        cores = f", {threads} thread{'' if threads == 1 else 's'}" if self.device.type == "cpu" else ""
        return f"one sample of {' x '.join(map(str, self.shape))}, float32, {self.device.type} ({where}{cores})"

    def facts(self) -> dict[str, Any]:
        """The same for a result file."""
        return {
            "setting": self.setting,
            "device": self.device.type,
            "shape": list(self.shape),
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "warm_up": WARM_UP,
            "runs": RUNS,
        }

    def timings(
        self, encoders: Sequence[nn.Module], runs: int = RUNS, told: Callable[[range], Any] | None = None
    ) -> list[Timing]:
        """How long each encoder takes.

        They take turns, each round beginning with the next one, so that what else the machine does, be it in a rhythm,
        falls on all alike; the first runs do not count.

        Args:
            encoders: on the device, in evaluation mode.
            runs: of each.
            told: goes through the rounds and shows them, such as a progress bar.
        """
        view = torch.randn(1, *self.shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        taken = np.zeros((WARM_UP + runs, len(encoders)))
        with torch.inference_mode():
            for number in range(len(taken)) if told is None else told(range(len(taken))):
                for turn in range(len(encoders)):
                    place = (turn + number) % len(encoders)
                    self._wait()
                    begun = time.perf_counter()
                    encoders[place]([view])
                    self._wait()
                    taken[number, place] = time.perf_counter() - begun
        low, middle, high = np.percentile(taken[WARM_UP:], (25, 50, 75), axis=0)
        return [Timing(float(m), float(h - less), runs) for less, m, h in zip(low, middle, high, strict=True)]

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


def misgivings(times: Mapping[SubNetwork, Timing]) -> list[str]:
    """What speaks against some times: warnings, each a sentence; none where they can be believed."""
    said = []
    shaky = [size for size, time in times.items() if time.runs >= RUNS and time.unsteady]
    if shaky:
        worst = max(shaky, key=lambda size: times[size].spread / times[size].seconds)
        share = times[worst].spread / times[worst].seconds
        said.append(
            f"times of {len(shaky)} of {plural(len(times), 'size')} are unsteady (those of the middle half of the runs "
            f"of {worst} lie {100 * share:.0f} % apart): the machine is busy, measure again when it rests"
        )
    pairs = [
        (times[small].seconds / times[large].seconds, small, large)
        for small in times
        for large in times
        if small != large and small.width <= large.width and _no_deeper(small, large)
    ]
    hasty = {size for size, time in times.items() if time.runs < RUNS}
    wrong = [pair for pair in pairs if pair[0] > (HASTY_ORDER if hasty.intersection(pair[1:]) else ORDER)]
    if wrong:
        ratio, small, large = max(wrong)
        said.append(
            f"{small} took {ratio:.2g} times as long as {large}, which contains it: these times are not those of the "
            "networks alone, and the choice of a size by them is not sure"
        )
    return said


def _no_deeper(small: SubNetwork, large: SubNetwork) -> bool:
    return all(here <= there for here, there in zip(small.depths, large.depths, strict=True))
