"""From the bytes of one recording to readings in m/s^2 and rad/s at an even rate.

What the columns are, their units and their rate is declared: by the sample's ``json`` member, else by the names of the
columns, else by the recipe. Numbers that cannot be in the declared unit are told, once for each process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from foundation.data import members
from foundation.errors import Note, SampleError, UserError
from foundation.modalities.imu import units
from foundation.modalities.imu.errors import ImuError
from foundation.modalities.imu.tables import ARRAYS, TABLES, Wanted, read
from foundation.modalities.imu.times import (
    HIGHEST_RATE,
    LOWEST_RATE,
    UNITS,
    Stretch,
    bridged,
    even,
    in_seconds,
    stretches,
    unit_of,
)
from foundation.ranges import Range, Seconds, check
from foundation.voice import plural

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from foundation.types import Sample

EXTENSIONS = (*ARRAYS[:1], *TABLES[:2], *ARRAYS[1:], *TABLES[2:])
"""Members that count as the readings of a sample, in the order in which they are looked for."""

_LEAST_SHARE = 1 / 3  # of a recording's time that its longest stretch must cover
_RATES = ("imu_rate", "imu_rate_hz", "rate_hz")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the columns of a recording are, and what becomes of gravity."""

    channels: tuple[str, ...] = ("acc_x", "acc_y", "acc_z", "gyr_x", "gyr_y", "gyr_z")
    """Channels of a sample in their order. Names that begin with ``acc`` are accelerations, with ``gyr`` angular
    velocities; others are kept as they are."""
    columns: tuple[str, ...] | None = None
    """Where each channel is found: the name of a column, or its number from 0. None: columns called like the channels,
    or as loggers usually call them (``Acceleration x (m/s^2)``, ``accelX``, ``ax``); without names, the first ones."""
    time: str | None = None
    """Name or number of the column with the time of each reading; None: readings come at an even rate, or, where
    nothing says that rate, the column called ``time``, ``timestamp`` or the like."""
    time_unit: Literal["auto", "s", "ms", "us", "ns"] = "auto"
    """Unit of that column. ``auto``: as its name says (``Time (ms)``, ``timestamp_ns``), dates by themselves, large
    numbers by their size since 1970, else seconds."""
    rate: Annotated[float, Range(LOWEST_RATE, HIGHEST_RATE)] | None = None
    """Readings per second, for samples whose ``json`` has no ``imu_rate`` and that have no times."""
    acceleration: str = "m/s^2"
    """Unit of the accelerations as they are written: ``m/s^2``, ``g`` or ``mg``; ``g/16384`` for raw counts. Used where
    neither the sample's ``json`` (``imu_units``) nor the name of a column says it."""
    angular_velocity: str = "rad/s"
    """Unit of the angular velocities as they are written: ``rad/s``, ``deg/s``, or ``deg/s/16.4`` for raw counts."""
    has_gravity: bool = True
    """Whether the recording contains gravity, as a bare accelerometer does; else its length is not checked."""
    gravity: Literal["keep", "remove"] = "keep"
    """``remove`` takes out what changes more slowly than ``gravity_hz``, and with it the sensor's attitude."""
    gravity_hz: Annotated[float, Range(0, 1e5, above=True)] = 0.3
    """Frequency in Hz below which acceleration counts as gravity (UCI-HAR: 0.3)."""
    max_gap: Seconds = 0.5
    """Longest gap between two times in seconds; shorter ones are bridged by straight lines. Over a longer one nothing
    reaches: the longest stretch without one is taken."""
    bridge: bool = False
    """Numbers that are missing are bridged like gaps, each channel by itself (tables in which sensors have rows of
    their own, such as Ego4D's); else a row that lacks one is left out as a whole."""
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
        if self.time_unit not in ("auto", *UNITS):
            raise UserError(f"decode.time_unit is {self.time_unit!r}; choose auto, {', '.join(UNITS)}")
        for name in ("acceleration", "angular_velocity"):
            units.factor(getattr(self, name), name, f"decode.{name}")
        if self.gravity not in ("keep", "remove"):
            raise UserError(f"decode.gravity is {self.gravity!r}; choose keep or remove")
        if self.min_steps > self.max_steps:
            raise UserError(f"decode: min_steps {self.min_steps} must lie in 2 to max_steps {self.max_steps}")

    def build(self) -> ImuDecoder:
        """The function from a raw sample to a sample."""
        return ImuDecoder(self)


@dataclass(frozen=True)
class Piece:
    """Readings without a gap, at an even rate.

    Attributes:
        values: float32 [T, C] in m/s^2 and rad/s.
        rate: Hz.
        start: when it begins, seconds.
    """

    values: NDArray[np.float32]
    rate: float
    start: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.values) / self.rate


@dataclass(frozen=True)
class Recording:
    """What of a recording can be used.

    Attributes:
        stretches: in the order of the file; at least one.
        notes: what was left out and where it is broken.
    """

    stretches: tuple[Piece, ...]
    notes: tuple[Note, ...]

    @property
    def seconds(self) -> float:
        """The time it covers, gaps included, or the sum of its stretches where the clock was set back."""
        last = self.stretches[-1]
        return max(last.start + last.seconds - self.stretches[0].start, sum(part.seconds for part in self.stretches))


class ImuDecoder:
    """Decodes the readings and the label of one sample.

    Args:
        config: declarations for samples that make none themselves.
    """

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, raw: Mapping[str, Any]) -> Sample:
        """Decode one sample.

        Args:
            raw: members by extension (bytes), with ``__key__``, ``__shard__`` and ``__id__``. The ``json`` member may
                say ``imu_rate`` (Hz), ``imu_units`` (``{"acceleration": "g", "angular_velocity": "deg/s"}``),
                ``imu_channels`` (names of an array's columns), ``imu_gravity`` (bool) and ``imu_start`` (seconds on the
                clock that it shares with other sensors of the sample).

        Returns:
            ``imu``: float32 [T, C] in m/s^2 and rad/s, of a recording with gaps its longest stretch without one;
            ``imu_rate``: float, Hz; ``imu_start``: when it begins, seconds (a reading stands for 1 / rate seconds
            around its time); and ``label`` (a number, a name or several) where there is one.

        Raises:
            SampleError: reason ``missing``, ``empty``, ``truncated``, ``decode``, ``shape`` (numbers, columns or
                a rate that cannot be), ``gap`` (no stretch is as long as a third of the recording), ``conflict``,
                ``not_finite``, ``too_short`` or ``too_large``.
            UserError: pyarrow is not installed and a Parquet file is read.
        """
        import torch

        recording = self.read(raw)
        longest = max(recording.stretches, key=lambda stretch: stretch.seconds)
        if longest.seconds < _LEAST_SHARE * recording.seconds:
            broken = next(note.detail for note in recording.notes if note.reason == "gap")
            text = f"the longest stretch has {longest.seconds:.4g} of {recording.seconds:.4g} s: {broken}"
            advice = "'foundation data build imu-folder --window' cuts the stretches apart"
            raise SampleError(*members.origin_of(raw), "gap", f"{text}; {advice}")
        sample: Sample = {k: v for k, v in raw.items() if k.startswith("__")}
        sample["imu"] = torch.from_numpy(longest.values)
        sample["imu_rate"], sample["imu_start"] = longest.rate, longest.start
        members.note(sample, *recording.notes)
        members.put_label(sample, raw, self.config.label)
        return sample

    def read(self, raw: Mapping[str, Any]) -> Recording:
        """All stretches of one sample's recording; see :meth:`__call__`."""
        name = members.required(raw, self.config.member, EXTENSIONS, "imu")
        try:
            return self._read(raw, name)
        except ImuError as error:
            raise SampleError(*members.origin_of(raw), error.reason, f"{name}: {error}") from error.__cause__

    def _read(self, raw: Mapping[str, Any], name: str) -> Recording:
        import numpy as np

        config, facts = self.config, members.facts(raw)
        names = facts.get("imu_channels")
        if names is not None and not (isinstance(names, list) and all(isinstance(part, str) for part in names)):
            raise ImuError("decode", f"json: imu_channels is {names!r}; a list of names is expected")
        rate = self._number(facts, _RATES, LOWEST_RATE) or config.rate
        given = config.columns is not None
        wanted = Wanted(config.columns or config.channels, given, config.time, rate is None, config.max_steps)
        table = read(raw[name], name, wanted, None if names is None else tuple(names), members.origin_of(raw))
        values = table.values
        if len(values) < config.min_steps:
            raise ImuError(
                "too_short", f"{plural(len(values), 'reading')}; at least {config.min_steps} are needed (min_steps)"
            )
        if not config.bridge and not np.isfinite(values).all(axis=1).any():
            column = int(np.argmin(np.isfinite(values[0])))
            text = f"reading 0 of {config.channels[column]} is {values[0, column]}, and every other lacks a number too"
            raise ImuError("not_finite", text)
        stated, doubts = self._units(facts), dict[str, Note]()
        for column, channel in enumerate(config.channels):
            kind = units.kind_of(channel)
            if kind in stated:
                unit = self._unit(kind, stated[kind], table.units[column], "imu_units" in facts)
                values[:, column] *= units.factor(unit, kind, "imu_units")
                if "imu_units" not in facts:
                    doubts |= self._unknown(kind, unit, channel, table.units[column])
                stated[kind] = unit
        start = self._number(facts, ("imu_start",), -math.inf) or 0.0
        if table.times is None:
            if rate is None:
                told = "neither times, nor json (imu_rate), nor the recipe (views.decode.rate), nor data build (--rate)"
                raise ImuError("shape", f"nothing says how many readings a second: {told}")
            if rate > HIGHEST_RATE:
                raise ImuError("shape", f"{rate:g} Hz: expected {LOWEST_RATE:g} to {HIGHEST_RATE:g} Hz")
            times, origin, shown = np.arange(len(values)) / rate, 0.0, lambda row: f"{row / rate:.6f} s"
        else:
            written = table.times
            unit = config.time_unit if config.time_unit != "auto" else table.time_unit or unit_of(written)
            (times, origin), shown = in_seconds(written, unit), lambda row: f"{written[row]!s} {unit}"
        found, notes = stretches(values, times, config.max_gap, shown, config.bridge)
        long_enough = [stretch for stretch in found if len(stretch.values) >= config.min_steps]
        if len(long_enough) < len(found):
            lost = len(found) - len(long_enough)
            notes.append(
                Note(
                    "too_short",
                    f"{plural(lost, 'stretch', 'stretches')} of fewer than {config.min_steps} readings left out",
                )
            )
        if not long_enough:
            most = max(len(stretch.values) for stretch in found)
            raise ImuError(
                "gap" if len(found) > 1 else "too_short",
                f"no more than {most} readings hang together: {notes[0].detail}",
            )
        gravity = bool(facts.get("imu_gravity", config.has_gravity))
        if gravity:
            notes += self._suspicion(long_enough, stated)
        pieces = []
        for stretch in long_enough:
            values = bridged(stretch.values, stretch.times, config.max_gap)
            if table.times is None and len(found) == 1 and len(values) == len(table.values):
                own, begin = float(rate or 0.0), start
            else:
                values, own, begin = even(values, stretch.times)
                begin += start + origin - (0.5 / own if table.times is not None else 0.0)
            pieces.append(Piece(self._finished(values, own, gravity), own, begin))
        return Recording(tuple(pieces), (*table.notes, *doubts.values(), *notes))

    def _unknown(self, kind: str, unit: str, channel: str, by_name: str) -> dict[str, Note]:
        """A note where a column's name says a unit that is none of its kind, and nobody has declared another one."""
        known = units.ACCELERATION if kind == "acceleration" else units.ANGULAR_VELOCITY
        if not by_name or by_name in known or getattr(self.config, kind) != next(iter(known)):
            return {}
        said = f"the name of the column of {channel} says {by_name!r}, no known unit of {kind.replace('_', ' ')}"
        choice = ", ".join(known)
        return {kind: Note("units", f"{said}: the numbers are taken as {unit}; declare decode.{kind} ({choice})")}

    def _unit(self, kind: str, stated: str, by_name: str, by_sample: bool) -> str:
        """The unit of a channel: as the sample says, else as the column's name does, else as the recipe does."""
        known = units.ACCELERATION if kind == "acceleration" else units.ANGULAR_VELOCITY
        if by_sample or by_name not in known or by_name == stated:
            return stated
        if stated != next(iter(known)):  # not the default: somebody has declared it
            raise ImuError("conflict", f"a column's name says {by_name}, decode.{kind} says {stated}")
        return by_name

    def _finished(self, values: NDArray[np.float64], rate: float, gravity: bool) -> NDArray[np.float32]:
        """Float32 readings, tested after the cast, without gravity where that is wanted."""
        config = self.config
        cast = self._cast(
            values
        )  # before gravity is taken off: the filter would spread one bad reading over the others
        if not gravity or config.gravity != "remove":
            return cast
        from foundation.modalities.imu.signals import slow

        columns = [i for i, channel in enumerate(config.channels) if units.kind_of(channel) == "acceleration"]
        values = values.copy()
        values[:, columns] -= slow(values[:, columns], rate, config.gravity_hz)
        return self._cast(values)

    def _cast(self, values: NDArray[np.float64]) -> NDArray[np.float32]:
        """Readings in float32.

        Raises:
            ImuError: one of them is not finite then.
        """
        import numpy as np

        with np.errstate(over="ignore"):
            cast = np.ascontiguousarray(values, dtype=np.float32)
        if not np.isfinite(cast).all():
            row, column = (int(place[0]) for place in np.nonzero(~np.isfinite(cast)))
            raise ImuError("not_finite", f"reading {row} of {self.config.channels[column]} is {values[row, column]:g}")
        return cast

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

    def _suspicion(self, found: Sequence[Stretch], stated: Mapping[str, str]) -> list[Note]:
        """A note where the usual length of the acceleration, or of the angular velocity, fits another unit."""
        longest = max(found, key=lambda stretch: len(stretch.values)).values
        text = units.suspicion(longest, self.config.channels, stated["acceleration"], stated["angular_velocity"])
        return [Note("units", text)] if text else []
