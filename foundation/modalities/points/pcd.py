"""PCD files of the Point Cloud Library, version 0.7: text, binary, and binary compressed by LZF."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundation.modalities.points.precision import Table
from foundation.modalities.points.tables import (
    COLUMNS,
    Limits,
    PointError,
    bounded,
    named,
    text_rows,
)

_HEADER = 4096
_KINDS = {"F": "f", "I": "i", "U": "u"}


def read(data: bytes, limits: Limits) -> Table:
    """Points of a PCD file: x, y, z, then normals, colours (``rgb`` or ``rgba``) and intensity, where there are any.

    Raises:
        PointError: no PCD file, truncated, or too large.
    """
    offset = data[:_HEADER].find(b"\nDATA ")
    end = data.find(b"\n", offset + 1) + 1 if offset >= 0 else 0
    if not end:
        raise PointError("decode", "no PCD header (it ends with a line DATA)")
    head = {
        words[0]: words[1:] for line in data[:end].decode("ascii", "replace").splitlines() if (words := line.split())
    }
    names, kind, count = _fields(head)
    bounded(count, limits)
    layout = " ".join(head.get("DATA", ()))
    if layout == "ascii":
        rows = text_rows(data[end:], count, len(names))
        columns: dict[str, NDArray[Any]] = {name: rows[:, i].astype(kind[name]) for i, name in enumerate(names)}
    elif layout in ("binary", "binary_compressed"):
        body = data[end:]
        size = count * kind.itemsize
        if layout == "binary_compressed":
            if len(body) < 8:
                raise PointError("truncated", "the file ends before its points begin")
            packed, unpacked = np.frombuffer(body, "<u4", 2).tolist()
            if unpacked < size or len(body) - 8 < packed:
                raise PointError("truncated", f"{len(body) - 8} bytes of points, {packed} are announced")
            body = unpack(body[8 : 8 + packed], size)
        if len(body) < size:
            raise PointError("truncated", f"{len(body)} bytes of points, {size} are announced")
        if layout == "binary":
            records = np.frombuffer(body, kind, count)
            columns = {name: records[name] for name in names}
        else:  # field by field, so that like numbers lie together
            columns, at = {}, 0
            for name in names:
                columns[name] = np.frombuffer(body, kind[name], count, at)
                at += count * kind[name].itemsize
    else:
        raise PointError("decode", f"PCD data {layout!r} is not understood")
    stored = {name: kind[name] for name in names}
    for packed_name in ("rgb", "rgba"):
        if packed_name in columns and kind[packed_name].itemsize == 4:
            bits = np.ascontiguousarray(columns.pop(packed_name)).view(np.uint32)
            for name, shift in (("red", 16), ("green", 8), ("blue", 0)):
                columns[name], stored[name] = bits >> shift & 255, np.dtype(np.uint8)
    return named(columns, stored, "PCD points")


def _fields(head: dict[str, list[str]]) -> tuple[list[str], np.dtype[Any], int]:
    names, sizes, kinds = head.get("FIELDS", []), head.get("SIZE", []), head.get("TYPE", [])
    counts = head.get("COUNT") or ["1"] * len(names)
    if not 3 <= len(names) <= COLUMNS or not len(names) == len(sizes) == len(kinds) == len(counts):
        raise PointError("decode", f"the PCD header does not describe its {len(names)} fields")
    # Fields called _ are filling between the others.
    names = [f"_{index}" if name == "_" else name for index, name in enumerate(names)]
    try:
        parts = [
            (name, f"<{_KINDS[kind]}{int(size)}") if int(number) == 1 else (name, f"V{int(size) * int(number)}")
            for name, size, kind, number in zip(names, sizes, kinds, counts, strict=True)
        ]
        kind = np.dtype(parts)
        points = head["POINTS"] if "POINTS" in head else [str(int(head["WIDTH"][0]) * int(head["HEIGHT"][0]))]
        count = int(points[0][:16])
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise PointError("decode", f"a PCD header that is not understood: {error}") from None
    return names, kind, count


def unpack(data: bytes, size: int) -> bytes:
    """What LZF has packed (Marc Lehmann's LibLZF): literal runs, and copies of what came shortly before.

    Args:
        data: packed.
        size: bytes when unpacked; more is never written.

    Raises:
        PointError: reason ``corrupt``.
    """
    out = bytearray()
    offset = 0
    try:
        while offset < len(data) and len(out) < size:
            control = data[offset]
            offset += 1
            if control < 32:
                out += data[offset : offset + control + 1]
                offset += control + 1
                continue
            length, back = control >> 5, (control & 31) << 8
            if length == 7:
                length += data[offset]
                offset += 1
            start = len(out) - back - data[offset] - 1
            offset += 1
            if start < 0:
                raise PointError("corrupt", f"packed points name what is not there (byte {offset})")
            length += 2
            piece = bytes(out[start : start + length])
            out += (piece * (length // len(piece) + 1))[:length]  # a copy may reach into itself
    except IndexError:
        raise PointError("truncated", f"packed points end after {len(out)} of {size} bytes") from None
    if len(out) < size:
        raise PointError("truncated", f"packed points end after {len(out)} of {size} bytes")
    return bytes(out[:size])
