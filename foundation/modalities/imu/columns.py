"""Which column of a table is which channel: by its name, by its number, or by what loggers usually call it.

A column is a channel's when it has the channel's own name. For channels called ``acc_x``, ``gyr_y``, ``mag_z`` and the
like, the names that loggers give count too: ``Acceleration x (m/s^2)``, ``accelX``, ``ax``; ``Gyroscope y (rad/s)``,
``gyroY``, ``wy``. What stands in brackets at the end of a name, or behind its last underscore, is its unit. Where two
columns could be meant, none is taken and both are named.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from foundation.modalities.imu.errors import ImuError

_SENSORS = {
    "acc": "a|acc|accl|accel|acceleration|accelerometer|accelerometeracceleration",
    "gyr": "g|w|gyr|gyro|gyroscope|angularvelocity|angularrate|rotationrate|omega",
    "mag": "m|mag|magn|magnetometer|magneticfield",
}
_TIME = "t|time|times|timestamp|timestamps|datetime|epoch|unixtime|secondselapsed|elapsed|elapsedtime|sampletime"
_UNITS = {
    "m/s^2": ("m/s^2", "m/s2", "m/s²", "m/s/s", "ms-2", "ms^-2", "m*s^-2", "m.s-2", "m/s**2", "m/sec^2", "mps2"),
    "g": ("g", "gs"),
    "mg": ("mg",),
    "rad/s": ("rad/s", "rads-1", "rads^-1", "rad*s^-1", "rad/sec", "radps", "rps"),
    "deg/s": (
        "deg/s",
        "°/s",
        "º/s",
        "dps",
        "d/s",
        "deg/sec",
        "degps",
        "degree/s",
        "degrees/s",
        "degree/sec",
        "degrees/sec",
        "deg/second",
        "degs-1",
        "degs^-1",
        "deg*s^-1",
    ),
    "s": ("s", "sec", "secs", "second", "seconds"),
    "ms": ("ms", "msec", "millis", "millisecond", "milliseconds"),
    "us": ("us", "µs", "μs", "usec", "micros", "microsecond", "microseconds"),
    "ns": ("ns", "nsec", "nanos", "nanosecond", "nanoseconds"),
}
_SPELLINGS = {spelling: unit for unit, spellings in _UNITS.items() for spelling in spellings}
_BRACKETS = re.compile(r"^(.*?)[\s_]*[(\[{]([^()\[\]{}]*)[)\]}]\s*$")
_TIME_UNITS = ("s", "ms", "us", "ns")


@dataclass(frozen=True)
class Found:
    """Where the wanted columns stand.

    Attributes:
        indices: number of the column of each channel, from 0.
        units: what its name says, in the words of :mod:`foundation.modalities.imu.units`; as it is written there where
            no such unit is known; empty where it says none.
        time: number of the column of times; None: there is none.
        time_unit: what its name says; empty where it says none.
    """

    indices: tuple[int, ...]
    units: tuple[str, ...]
    time: int | None
    time_unit: str


def find(channels: Sequence[str], given: bool, time: str | None, names: Sequence[str], columns: int) -> Found:
    """The columns of a table or an array.

    Args:
        channels: wanted; numbers as text count from 0.
        given: whether the user named the columns: then they are found by name or number alone.
        time: the user's name or number of the column of times.
        names: of the columns; empty: they have none, and the first ones are meant unless ``given``.
        columns: how many there are.

    Raises:
        ImuError: reason ``missing``, or ``conflict`` where two columns could be meant.
    """
    if not names and not given:
        free = [str(number) for number in range(columns) if str(number) != time]
        channels = free[: len(channels)] if len(free) >= len(channels) else [str(i) for i in range(len(channels))]
    found = [_place(channel, names, columns, not given) for channel in channels]
    when = _place(time, names, columns, False) if time is not None else _usual_time(names)
    missing = [name for name, index in zip(channels, found, strict=True) if index is None]
    missing += [time] if time is not None and when is None else []
    if missing:
        there = ", ".join(names) if names else f"{columns} without names"
        raise ImuError(
            "missing",
            f"no column {', '.join(missing)} (columns: {there}): say which they are by "
            "decode.columns (data build: --columns), or name only those that are there by decode.channels (--channels)",
        )
    indices = tuple(index for index in found if index is not None)
    units = tuple(split(names[index])[1] or _unknown_unit(names[index]) if names else "" for index in indices)
    time_unit = split(names[when])[1] if names and when is not None else ""
    return Found(indices, units, when, time_unit if time_unit in _TIME_UNITS else "")


def split(name: str) -> tuple[str, str]:
    """A column's name without anything but letters and digits, small; and its unit, empty where it names none known.

    ``Acceleration x (m/s^2)`` is ``accelerationx`` in ``m/s^2``; ``timestamp_ms`` is ``timestamp`` in ``ms``.
    """
    bare, unit = name.strip(), ""
    if match := _BRACKETS.match(bare):
        bare, unit = match[1], _SPELLINGS.get(match[2].replace(" ", "").lower(), "")
    else:
        front, line, back = bare.rpartition("_")
        if line and _SPELLINGS.get(back.lower()) in _TIME_UNITS:
            bare, unit = front, _SPELLINGS[back.lower()]
    return re.sub(r"[\W_]+", "", bare).lower(), unit


def _unknown_unit(name: str) -> str:
    """What stands in brackets at the end of a name that names no unit known here."""
    match = _BRACKETS.match(name.strip())
    return match[2].strip() if match else ""


def _place(wanted: str, names: Sequence[str], columns: int, usual: bool) -> int | None:
    if wanted in names:
        return list(names).index(wanted)
    if wanted.isascii() and wanted.isdigit() and int(wanted) < columns:
        return int(wanted)
    sensor, line, axis = wanted.partition("_")
    if not usual or not line or sensor not in _SENSORS or axis not in ("x", "y", "z"):
        return None
    pattern = re.compile(f"(?:{_SENSORS[sensor]}){axis}|{axis}(?:{_SENSORS[sensor]})")
    return _only(wanted, pattern, names)


def _usual_time(names: Sequence[str]) -> int | None:
    return _only("time", re.compile(f"(?:canonical)?(?:{_TIME})"), names)


def _only(wanted: str, pattern: re.Pattern[str], names: Sequence[str]) -> int | None:
    indices = [index for index, name in enumerate(names) if pattern.fullmatch(split(name)[0])]
    if len(indices) > 1:
        if wanted == "time":  # loggers write the time of the day beside the seconds: the first counts
            return indices[0]
        there = " and ".join(names[index] for index in indices)
        raise ImuError("conflict", f"{there} could both be {wanted}: set decode.columns")
    return indices[0] if indices else None
