"""Telemetry of action cameras: the GoPro Metadata Format in a track of their MP4 files.

A payload is a tree of entries: four letters, one byte type, one byte structure size, two bytes number of structures
(all big-endian), then the content, filled up to four bytes. Type 0 holds further entries. A stream (``STRM``) has its
readings last; before them stand the divisor (``SCAL``), the unit (``SIUN`` or ``UNIT``) and, since the HERO6, which
axis each channel is (``ORIN``: ``YxZ`` are Y, minus X, Z). Layout after GoPro's
published description of the format (https://github.com/gopro/gpmf-parser, MIT or Apache-2.0).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foundation.modalities.imu.errors import ImuError
from foundation.modalities.video.pyav import library, open_container

_TYPES = {"b": "i1", "B": "u1", "s": ">i2", "S": ">u2", "l": ">i4", "L": ">u4", "f": ">f4", "d": ">f8", "j": ">i8"}
_DEEPEST = 6


@dataclass(frozen=True)
class Readings:
    """Readings of one sensor.

    Attributes:
        values: [n, channels] in the unit stated: X, Y, Z of the camera where the file says which is which (``axes``),
            else in the order of the file.
        unit: as the file gives it, such as ``m/s²``; empty where it says none.
        name: what the file calls the sensor.
        axes: how the file had them, such as ``YxZ``; empty where it does not say (HERO5 and before).
    """

    values: NDArray[np.float64]
    unit: str
    name: str
    axes: str = ""


def parse(payload: bytes) -> dict[str, Readings]:
    """Readings of one payload.

    Args:
        payload: about one second of telemetry.

    Returns:
        By the four letters of the sensor: ``ACCL``, ``GYRO``, ...; of several devices the first one with it.

    Raises:
        ImuError: reason ``empty``, ``truncated`` or ``decode``.
    """
    if not payload:
        raise ImuError("empty", "a payload without bytes")
    found: dict[str, Readings] = {}
    _walk(payload, 0, found)
    return found


def _entries(data: bytes) -> Iterator[tuple[str, str, int, int, bytes]]:
    """Letters, type, structure size, number of structures and content of each entry."""
    offset = 0
    while offset + 8 <= len(data):
        letters, kind, size, repeat = struct.unpack_from(">4sBBH", data, offset)
        if letters == b"\0\0\0\0":  # the rest is filling
            return
        if not all(32 <= letter < 127 for letter in letters):
            raise ImuError("decode", f"{letters!r} at byte {offset} are no letters of an entry: no GPMF payload")
        length = size * repeat
        if offset + 8 + length > len(data):
            raise ImuError(
                "truncated", f"entry {letters.decode()} promises {length} bytes, {len(data) - offset - 8} left"
            )
        yield letters.decode(), chr(kind) if kind else "", size, repeat, data[offset + 8 : offset + 8 + length]
        offset += 8 + (length + 3) // 4 * 4


def _walk(data: bytes, depth: int, found: dict[str, Readings]) -> None:

    if depth > _DEEPEST:
        raise ImuError("decode", f"entries lie more than {_DEEPEST} deep")
    scale, unit, name, axes = np.ones(1), "", "", ""
    for letters, kind, size, repeat, content in _entries(data):
        if not kind:
            _walk(content, depth + 1, found)
        elif letters == "SCAL" and kind in _TYPES:
            scale = np.frombuffer(content, _TYPES[kind]).astype(np.float64)
        elif letters in ("SIUN", "UNIT"):
            unit = content[:size].split(b"\0")[0].decode("latin-1").strip()
        elif letters == "STNM":
            name = content.split(b"\0")[0].decode("latin-1").strip()
        elif letters == "ORIN":
            axes = content.split(b"\0")[0].decode("latin-1")
        elif letters in ("ACCL", "GYRO", "MAGN", "GRAV") and kind in _TYPES and repeat and letters not in found:
            numbers = np.frombuffer(content, _TYPES[kind])
            if len(numbers) % repeat:
                raise ImuError("decode", f"{letters}: {len(numbers)} numbers are no {repeat} readings")
            values = numbers.reshape(repeat, -1).astype(np.float64)
            if not scale.all() or len(scale) not in (1, values.shape[1]):
                raise ImuError("decode", f"{letters}: {len(scale)} divisors for {values.shape[1]} channels")
            found[letters] = Readings(_in_order(values / scale, axes), unit, name, axes)


def _in_order(values: NDArray[np.float64], axes: str) -> NDArray[np.float64]:
    """X, Y, Z of channels that are named by letters, small ones of the opposite sign; as they are without names."""

    if not axes:
        return values
    if sorted(axes.upper()) != ["X", "Y", "Z"] or values.shape[1] != 3:
        raise ImuError("decode", f"ORIN names the axes {axes!r} for {values.shape[1]} channels; it must be X, Y and Z")
    signs = np.array([1.0 if axis.isupper() else -1.0 for axis in axes])
    return (values * signs)[:, [axes.upper().index(axis) for axis in "XYZ"]]


def track(data: bytes) -> list[tuple[float, bytes]]:
    """Payloads of a file's telemetry track.

    Args:
        data: an MP4 or MOV file.

    Returns:
        (seconds from the begin of the file, payload), in order; empty for a file without telemetry.

    Raises:
        ImuError: reason ``decode`` or ``truncated``: the file cannot be read.
        UserError: PyAV is not installed.
    """

    av = library()
    try:
        with open_container(data) as container:
            for stream in container.streams:
                if stream.type != "data":
                    continue
                payloads = [
                    (float(packet.pts * packet.time_base), bytes(packet))
                    for packet in container.demux(stream)
                    if packet.size and packet.pts is not None
                ]
                if payloads and payloads[0][1][:4] == b"DEVC":
                    return payloads
                container.seek(0)
    except (av.error.FFmpegError, ValueError) as error:
        raise ImuError("decode", f"the file cannot be read: {error}") from error
    return []


def readings(payloads: Sequence[tuple[float, bytes]], letters: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Readings of one sensor over a whole file, and their times.

    The readings of a payload lie evenly between its time and that of the next one. Those of the last go on at the mean
    rate: its duration in the file is that of a full payload, however few readings are left.

    Args:
        payloads: as :func:`track` gives them.
        letters: ``ACCL`` (m/s^2) or ``GYRO`` (rad/s).

    Returns:
        [n, 3] readings, X, Y, Z as far as the file names its axes; [n] seconds.

    Raises:
        ImuError: a bad payload, or reason ``missing``: there is no such sensor.
    """

    parts: list[NDArray[np.float64]] = []
    times: list[float] = []
    for begin, payload in payloads:
        found: Mapping[str, Readings] = parse(payload)
        if letters in found:
            parts.append(found[letters].values)
            times.append(begin)
    if not parts:
        raise ImuError("missing", f"the telemetry has no {letters}")
    counts = [len(part) for part in parts]
    # A payload covers 1001 ms; where there are several, their times say it better.
    step = (times[-1] - times[0]) / sum(counts[:-1]) if len(parts) > 1 else 1.001 / counts[0]
    ends = [*times[1:], times[-1] + step * counts[-1]]
    at = [
        begin + (end - begin) * np.arange(count) / count for begin, end, count in zip(times, ends, counts, strict=True)
    ]
    return np.concatenate(parts), np.concatenate(at)
