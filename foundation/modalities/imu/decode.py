"""From the bytes of one recording to readings in m/s^2 and rad/s at an even rate.

What the columns are, their units and their rate is declared, never guessed: by the sample's ``json`` member, else by
the recipe. Numbers that cannot be in the declared unit are told, once for each process.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from foundation.errors import SampleError, UserError
from foundation.modalities import members
from foundation.modalities.imu import units
from foundation.modalities.imu.tables import ARRAYS, TABLES, ImuError, Wanted, read
from foundation.ranges import Range, Seconds, check

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from foundation.types import Sample

EXTENSIONS = (*ARRAYS[:1], *TABLES[:2], *ARRAYS[1:], *TABLES[2:])
"""Members that count as the readings of a sample, in the order in which they are looked for."""

_RATES = ("imu_rate", "imu_rate_hz", "rate_hz")
_TIME_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
LOWEST_RATE, HIGHEST_RATE = 0.1, 100_000.0
"""Rates in Hz between which a declaration is believed."""


class UnitWarning(UserWarning):
    """The numbers of a recording do not look like the unit they are declared in."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the columns of a recording are, and what becomes of gravity."""

    channels: tuple[str, ...] = ("acc_x", "acc_y", "acc_z", "gyr_x", "gyr_y", "gyr_z")
    """Channels of a sample in their order. Names that begin with ``acc`` are accelerations, with ``gyr`` angular
    velocities; others are kept as they are."""
    columns: tuple[str, ...] | None = None
    """Where each channel is found: the name of a column, or its number from 0. None: columns called like the channels;
    without names, the first ones."""
    time: str | None = None
    """Name or number of the column with the time of each reading; None: readings come at an even rate."""
    time_unit: Literal["s", "ms", "us", "ns"] = "s"
    """Unit of that column."""
    rate: Annotated[float, Range(LOWEST_RATE, HIGHEST_RATE)] | None = None
    """Readings per second, for samples whose ``json`` has no ``imu_rate`` and that have no times."""
    acceleration: str = "m/s^2"
    """Unit of the accelerations as they are written: ``m/s^2``, ``g`` or ``mg``; ``g/16384`` for raw counts. Used where
    the sample's ``json`` has no ``imu_units``."""
    angular_velocity: str = "rad/s"
    """Unit of the angular velocities as they are written: ``rad/s``, ``deg/s``, or ``deg/s/16.4`` for raw counts."""
    has_gravity: bool = True
    """Whether the recording contains gravity, as a bare accelerometer does; else its length is not checked."""
    gravity: Literal["keep", "remove"] = "keep"
    """``remove`` takes out what changes more slowly than ``gravity_hz``, and with it the sensor's attitude."""
    gravity_hz: Annotated[float, Range(0, 1e5, above=True)] = 0.3
    """Frequency in Hz below which acceleration counts as gravity (UCI-HAR: 0.3)."""
    max_gap: Seconds = 0.5
    """Longest gap between two times in seconds; shorter ones are bridged by straight lines."""
    bridge: bool = False
    """Numbers of a table that are NaN count as missing and are bridged like gaps, each channel by itself (tables in
    which sensors have rows of their own, such as Ego4D's); else, and in arrays, they are refused."""
    min_steps: Annotated[int, Range(2, 2**31 - 1)] = 16
    """Recordings with fewer readings are refused."""
    max_steps: Annotated[int, Range(2, 2**31 - 1)] = 10_000_000
    """Recordings with more readings are refused."""
    member: str | None = None
    """The recording's member, such as ``npy`` or ``wrist.csv``; None: the first with a fitting extension."""
    label: str = "label"
    """Key of the class number in a sample's ``json`` member, used where it has no ``cls`` member."""

    def __post_init__(self) -> None:
        for name in ("channels", "columns"):
            value = getattr(self, name)
            object.__setattr__(self, name, value if value is None else tuple(str(part) for part in value))
        check(self, "decode")
        if not self.channels or len(set(self.channels)) != len(self.channels):
            raise UserError(f"decode.channels is {list(self.channels)}: give each channel a name of its own")
        if self.columns is not None and len(self.columns) != len(self.channels):
            raise UserError(f"decode.columns names {len(self.columns)} columns for {len(self.channels)} channels")
        if self.time_unit not in _TIME_UNITS:
            raise UserError(f"decode.time_unit is {self.time_unit!r}; choose {', '.join(_TIME_UNITS)}")
        for name in ("acceleration", "angular_velocity"):
            units.factor(getattr(self, name), name, f"decode.{name}")
        if self.gravity not in ("keep", "remove"):
            raise UserError(f"decode.gravity is {self.gravity!r}; choose keep or remove")
        if self.min_steps > self.max_steps:
            raise UserError(f"decode: min_steps {self.min_steps} must lie in 2 to max_steps {self.max_steps}")

    def build(self) -> ImuDecoder:
        """The function from a raw sample to a sample."""
        return ImuDecoder(self)


class ImuDecoder:
    """Decodes the readings and the label of one sample.

    Args:
        config: declarations for samples that make none themselves.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._warned = False

    def __call__(self, raw: Mapping[str, Any]) -> Sample:
        """Decode one sample.

        Args:
            raw: members by extension (bytes), with ``__key__``, ``__shard__`` and ``__id__``. The ``json`` member may
                say ``imu_rate`` (Hz), ``imu_units`` (``{"acceleration": "g", "angular_velocity": "deg/s"}``),
                ``imu_channels`` (names of an array's columns), ``imu_gravity`` (bool) and ``imu_start`` (seconds on the
                clock that it shares with other sensors of the sample).

        Returns:
            ``imu``: float32 [T, C] in m/s^2 and rad/s; ``imu_rate``: float, Hz; ``imu_start``: when the recording
            begins, seconds (a reading stands for 1 / rate seconds around its time); and ``label`` (int) where there is
            one.

        Raises:
            SampleError: reason ``missing``, ``empty``, ``truncated``, ``decode``, ``shape`` (numbers, columns or
                a rate that cannot be), ``gap``, ``not_finite``, ``too_short`` or ``too_large``.
            UserError: pyarrow is not installed and a Parquet file is read.
        """
        import torch

        config = self.config
        name = members.required(raw, config.member, EXTENSIONS, "imu")
        try:
            values, rate, start = self._read(raw, name)
        except ImuError as error:
            raise SampleError(*members.place_of(raw), error.reason, f"{name}: {error}") from error.__cause__
        sample: Sample = {k: v for k, v in raw.items() if k.startswith("__")}
        sample["imu"] = torch.from_numpy(values)
        sample["imu_rate"], sample["imu_start"] = rate, start
        label = members.label(raw, config.label)
        if label is not None:
            sample["label"] = label
        return sample

    def _read(self, raw: Mapping[str, Any], name: str) -> tuple[NDArray[np.float32], float, float]:
        import numpy as np

        config, facts = self.config, members.facts(raw)
        names = facts.get("imu_channels")
        if names is not None and not (isinstance(names, list) and all(isinstance(part, str) for part in names)):
            raise ImuError("decode", f"json: imu_channels is {names!r}; a list of names is expected")
        wanted = Wanted(config.columns or config.channels, config.columns is not None, config.time, config.max_steps)
        values, times = read(raw[name], name, wanted, None if names is None else tuple(names), members.place_of(raw))
        if not np.isfinite(values).all() and not config.bridge:
            row, column = (int(place[0]) for place in np.nonzero(~np.isfinite(values)))
            raise ImuError("not_finite", f"reading {row} of {config.channels[column]} is {values[row, column]}")
        if len(values) < config.min_steps:
            raise ImuError("too_short", f"{len(values)} readings; at least {config.min_steps} are needed (min_steps)")
        stated = self._units(facts)
        for column, channel in enumerate(config.channels):
            kind = units.kind_of(channel)
            if kind in stated:
                values[:, column] *= units.factor(stated[kind], kind, "imu_units")
        start = self._number(facts, ("imu_start",), -math.inf) or 0.0
        if times is None:
            rate = self._number(facts, _RATES, LOWEST_RATE) or config.rate
            if rate is None:
                raise ImuError("shape", "neither json (imu_rate), nor the recipe (decode.rate), nor times say the rate")
            if rate > HIGHEST_RATE:
                raise ImuError("shape", f"{rate:g} Hz: expected {LOWEST_RATE:g} to {HIGHEST_RATE:g} Hz")
            values = bridged(values, np.arange(len(values)) / rate, config.max_gap)
        else:
            times = times * _TIME_UNITS[config.time_unit]
            values, rate, begin = even(bridged(values, times, config.max_gap), times, config.max_gap)
            start += begin - 0.5 / rate
        gravity = facts.get("imu_gravity", config.has_gravity)
        if gravity:
            self._suspect(raw, values, stated)
        if gravity and config.gravity == "remove":
            from foundation.modalities.imu.signals import slow

            columns = [i for i, channel in enumerate(config.channels) if units.kind_of(channel) == "acceleration"]
            values[:, columns] -= slow(values[:, columns], rate, config.gravity_hz)
        return np.ascontiguousarray(values, dtype=np.float32), rate, start

    def _units(self, facts: Mapping[str, Any]) -> dict[str, str]:
        stated = {"acceleration": self.config.acceleration, "angular_velocity": self.config.angular_velocity}
        own = facts.get("imu_units", {})
        if not isinstance(own, dict):
            raise ImuError("decode", f"json: imu_units is {own!r}; expected acceleration and angular_velocity")
        for kind in stated:
            if kind in own:
                try:
                    units.factor(str(own[kind]), kind, f"json: imu_units.{kind}")
                except UserError as error:
                    raise ImuError("decode", str(error)) from None
                stated[kind] = str(own[kind])
        return stated

    @staticmethod
    def _number(facts: Mapping[str, Any], names: tuple[str, ...], least: float) -> float | None:
        for name in names:
            if name in facts:
                value = facts[name]
                number = isinstance(value, (int, float)) and not isinstance(value, bool)
                if not number or not least <= value < math.inf:
                    raise ImuError("shape", f"json: {name} is {value!r}, which cannot be")
                return float(value)
        return None

    def _suspect(self, raw: Mapping[str, Any], values: NDArray[np.floating], stated: Mapping[str, str]) -> None:
        if self._warned:
            return
        text = units.suspicion(values, self.config.channels, stated["acceleration"], stated["angular_velocity"])
        if text:
            self._warned = True
            shard, key = members.place_of(raw)
            warnings.warn(f"{shard}: sample {key!r}: {text}", UnitWarning, stacklevel=3)


def bridged(values: NDArray[np.float64], times: NDArray[np.float64], max_gap: float) -> NDArray[np.float64]:
    """Readings whose missing numbers (NaN or infinite) lie on straight lines between those before and after.

    Args:
        values: [T, C].
        times: [T] seconds.
        max_gap: seconds for which a channel may say nothing.

    Raises:
        ImuError: reason ``gap``.
    """
    import numpy as np

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


def even(
    values: NDArray[np.float64], times: NDArray[np.float64], max_gap: float
) -> tuple[NDArray[np.float64], float, float]:
    """Readings at uneven times, put on an even grid by straight lines between them.

    Args:
        values: [T, C].
        times: [T] seconds.
        max_gap: seconds.

    Returns:
        [n, C] readings; their rate, Hz: one over the mean step; the time of the first one.

    Raises:
        ImuError: reason ``decode`` (times that are no numbers or do not ascend), ``shape`` or ``gap``.
    """
    import numpy as np

    if not np.isfinite(times).all():
        raise ImuError("not_finite", f"time {int(np.argmin(np.isfinite(times)))} is no number")
    steps = np.diff(times)
    if (steps <= 0).any():
        row = int(np.argmax(steps <= 0))
        raise ImuError("decode", f"times must ascend, but {times[row]:.9g} s is followed by {times[row + 1]:.9g} s")
    step = float(np.median(steps))
    if not LOWEST_RATE <= 1.0 / step <= HIGHEST_RATE:
        raise ImuError("shape", f"readings every {step:g} s: is decode.time_unit right?")
    longest = int(np.argmax(steps))
    if steps[longest] > max(max_gap, 1.5 * step):
        raise ImuError(
            "gap", f"{steps[longest]:.3g} s without a reading from {times[longest]:.9g} s on (max_gap = {max_gap:g} s)"
        )
    # The mean of the steps without those in which readings were lost: a single step is rounded and trembles. It is then
    # spread over the whole length, so that the grid does not drift away.
    count = round((times[-1] - times[0]) / float(steps[steps < 1.9 * step].mean())) + 1
    step = float(times[-1] - times[0]) / (count - 1)
    grid = times[0] + step * np.arange(count)
    columns = [np.interp(grid, times, values[:, column]) for column in range(values.shape[1])]
    return np.stack(columns, axis=1), 1.0 / step, float(times[0])
