"""When readings were taken: times of any kind as seconds, unbroken stretches of a recording, and those at an even rate.

A logger repeats a time, writes rows out of order, sets its clock back, loses some seconds. None of it costs the
recording: what is bad is left out and said, a short hole is bridged by straight lines, and where a longer one lies the
recording falls into stretches, which nothing spans.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundation.errors import Note
from foundation.modalities.imu.errors import ImuError

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Units of time in seconds."""
LOWEST_RATE, HIGHEST_RATE = 0.1, 100_000.0
"""Rates in Hz between which a declaration is believed."""
_EPOCH = 1e9  # seconds; 2001, before which no logger counted milliseconds since 1970
_MOST_BREAKS = 10_000
_FULLEST = 16  # points of an even grid for each reading
_STRAY = 3  # so few readings between two that belong together are a clock that jumped and came back


@dataclass(frozen=True)
class Stretch:
    """Readings without a hole.

    Attributes:
        values: float64 [T, C].
        times: float64 [T] seconds, ascending.
    """

    values: NDArray[np.float64]
    times: NDArray[np.float64]

    @property
    def seconds(self) -> float:
        """From the first reading to the last."""
        return float(self.times[-1] - self.times[0])


def unit_of(times: NDArray[Any]) -> str:
    """Unit of times that say none: by their size where they count from 1970, else seconds."""

    wide = np.abs(times.astype(np.float64))
    middle = float(np.median(wide[np.isfinite(wide)])) if np.isfinite(wide).any() else 0.0
    return next((unit for unit in ("ns", "us", "ms") if _EPOCH <= middle * UNITS[unit] < 10 * _EPOCH), "s")


def in_seconds(times: NDArray[Any], unit: str) -> tuple[NDArray[np.float64], float]:
    """Times as seconds since the first, subtracted before anything is rounded; and the first, seconds.

    Args:
        times: [T] of any number type, in ``unit``.
        unit: of :data:`UNITS`.
    """

    if times.dtype.kind in "iu":
        whole = times.astype(np.int64)
        there = whole != np.iinfo(np.int64).min  # how NumPy writes a date that is none
        origin = int(whole[there][0]) if there.any() else 0
        since = (np.where(there, whole, origin) - np.int64(origin)).astype(np.float64) * UNITS[unit]
        return np.where(there, since, np.nan), origin * UNITS[unit]
    wide = times.astype(np.float64)
    first = wide[np.isfinite(wide)][:1]
    zero = float(first[0]) if len(first) else 0.0
    return (wide - zero) * UNITS[unit], zero * UNITS[unit]


def stretches(
    values: NDArray[np.float64],
    times: NDArray[np.float64],
    max_gap: float,
    shown: Callable[[int], str],
    bridge: bool = False,
) -> tuple[list[Stretch], list[Note]]:
    """What of a recording hangs together.

    Rows without a time are left out, as are (without ``bridge``) those in which a number is missing. Times that go back
    by no more than ``max_gap`` are rows out of order and are put in order; of rows with the same time the first counts.
    Where nothing was read for longer than ``max_gap``, or the clock was set back by more, a new stretch begins.

    Args:
        values: [T, C].
        times: [T] seconds; NaN where there is none.
        max_gap: seconds.
        shown: from the number of a reading to its time as the file has it, so that it can be found there.
        bridge: keep rows in which a number is missing.

    Returns:
        The stretches in the order of the file, and a note on each kind of thing that was left out or broke it.

    Raises:
        ImuError: reason ``not_finite``, where no row has all numbers; ``decode``, where all times are the same or jump
            over and over; ``shape``, where their step is no sensor's.
    """

    notes: list[Note] = []

    def note(reason: str, what: str, rows: NDArray[np.int64]) -> None:
        if len(rows):
            first = int(rows[0])
            notes.append(Note(reason, f"{what.format(len(rows))} (first: reading {first} at {shown(first)})"))

    steps = np.diff(times)
    if len(steps) and steps.min() > 0 and steps.max() <= max_gap and (bridge or np.isfinite(values).all()):
        return [Stretch(values, times)], notes  # as most are; a time that is none fails the comparisons
    rows = np.arange(len(times))
    whole = np.isfinite(times)
    note("not_finite", "{} readings without a time are left out", rows[~whole])
    if not bridge:
        there = np.isfinite(values).all(axis=1)
        note("not_finite", "{} readings in which a number is missing are left out", rows[whole & ~there])
        whole &= there
    rows = rows[whole]
    if not len(rows):
        raise ImuError("not_finite", "no reading has all its numbers and a time")
    moments = times[rows]
    if len(rows) > 1 and moments.max() == moments.min():
        raise ImuError("decode", f"all {len(rows):,} readings have the same time ({shown(int(rows[0]))})")
    step = np.diff(moments)
    usual = float(np.median(step[step > 0])) if (step > 0).any() else 0.0
    if usual:
        _check_step(usual)
    longest = max(max_gap, 1.5 * usual)
    breaks = np.flatnonzero((step > longest) | (step < -longest)) + 1
    if len(breaks) > _MOST_BREAKS:
        raise ImuError(
            "decode", f"the times jump {len(breaks):,} times: is this the column of times, and its unit right?"
        )
    runs = _joined(np.split(rows, breaks), times, longest)
    stray = np.setdiff1d(rows, np.concatenate(runs))
    note("gap", "{} readings with a time far from that of their neighbours are left out", stray)
    for before, after in pairwise(runs):
        at, hole = int(before[-1]), float(times[after[0]] - times[before[-1]])
        what = f"{hole:.6g} s without a reading" if hole > 0 else f"the clock goes back by {-hole:.6g} s"
        notes.append(Note("gap", f"{what} after reading {at} at {shown(at)} (max_gap = {max_gap:g} s)"))
    found, disordered, repeated = [], [], []
    for run in runs:
        moments = times[run]
        if (np.diff(moments) <= 0).any():
            disordered.append(run[1:][np.diff(moments) < 0])
            run = run[np.argsort(moments, kind="stable")]
            again = np.concatenate([[False], np.diff(times[run]) == 0])
            repeated.append(run[again])
            run = run[~again]
        found.append(Stretch(values[run], times[run]))
    if disordered:
        note("gap", "{} readings out of order are put in order", np.concatenate(disordered))
        note("duplicate", "{} readings whose time was there before are left out", np.sort(np.concatenate(repeated)))
    return found, notes


def _check_step(step: float) -> None:
    if not LOWEST_RATE <= 1.0 / step <= HIGHEST_RATE:
        raise ImuError("shape", f"readings every {step:g} s: is decode.time_unit right?")


def _joined(runs: list[NDArray[np.int64]], times: NDArray[np.float64], longest: float) -> list[NDArray[np.int64]]:
    """Runs of rows, without the few that a clock wrote which jumped and came back."""

    kept = [runs[0]]
    for index, run in enumerate(runs[1:], start=1):
        following = runs[index + 1] if index + 1 < len(runs) else None
        end = times[kept[-1][-1]]
        if len(run) <= _STRAY and following is not None and abs(times[following[0]] - end) <= longest:
            continue
        if abs(times[run[0]] - end) <= longest:
            kept[-1] = np.concatenate([kept[-1], run])
        else:
            kept.append(run)
    return kept


def bridged(values: NDArray[np.float64], times: NDArray[np.float64], max_gap: float) -> NDArray[np.float64]:
    """Readings whose missing numbers (NaN or infinite) lie on straight lines between those before and after.

    Args:
        values: [T, C].
        times: [T] seconds.
        max_gap: seconds for which a channel may say nothing.

    Raises:
        ImuError: reason ``gap``.
    """

    if np.isfinite(values).all():
        return values
    columns = []
    for number, column in enumerate(values.T):
        there = np.isfinite(column)
        known = np.concatenate([times[:1], times[there], times[-1:]])
        if not there.any() or np.diff(known).max() > max_gap:
            raise ImuError("gap", f"channel {number} has no number for longer than max_gap = {max_gap:g} s")
        columns.append(np.interp(times, times[there], column[there]))
    return np.stack(columns, axis=1)


def even(values: NDArray[np.float64], times: NDArray[np.float64]) -> tuple[NDArray[np.float64], float, float]:
    """Readings of one stretch at uneven times, put on an even grid by straight lines between them.

    Args:
        values: [T, C].
        times: [T] seconds, ascending, without a hole; T at least 2.

    Returns:
        [n, C] readings; their rate, Hz: one over the mean step; the time of the first one.

    Raises:
        ImuError: reason ``shape``: no rate of a sensor.
    """

    steps = np.diff(times)
    step = float(np.median(steps))
    _check_step(step)
    # The mean of the steps without those in which readings were lost: a single step is rounded and trembles. It is then
    # spread over the whole length, so that the grid does not drift away.
    count = round((times[-1] - times[0]) / float(steps[steps < 1.9 * step].mean())) + 1
    if count > _FULLEST * len(times):
        raise ImuError("shape", f"steps of {step:.3g} s to {steps.max():.3g} s: too uneven to be put on an even grid")
    step = float(times[-1] - times[0]) / (count - 1)
    grid = times[0] + step * np.arange(count)
    columns = [np.interp(grid, times, values[:, column]) for column in range(values.shape[1])]
    return np.stack(columns, axis=1), 1.0 / step, float(times[0])
