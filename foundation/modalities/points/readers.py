"""From the bytes of one file to a table of points [N, C]. Sizes are checked before memory is asked for.

Formats: NPY, NPZ, PLY (text, binary of either byte order), PCD, OFF (mesh), KITTI and nuScenes binaries, text columns,
and LAS and LAZ through laspy. Nothing here runs or unpickles what a file holds, and nothing here casts to float32: that
is left to :mod:`foundation.modalities.points.precision`.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundation.errors import Note
from foundation.modalities.points import las, pcd
from foundation.modalities.points.precision import Table, shares
from foundation.modalities.points.surface import read_off_mesh, sample_surface
from foundation.modalities.points.tables import (
    ALIASES,
    COLOURS,
    COLUMNS,
    DIGITS,
    Limits,
    PointError,
    bounded,
    named,
    parse_numbers,
    text_rows,
)

_HEADER = 64 * 1024
_POINT_BYTES = 64
"""Bytes per point that a compressed array may take when unpacked: eight numbers of double precision."""
_PLY_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip


def _table(array: NDArray[Any], limits: Limits) -> NDArray[Any]:
    if array.dtype.kind not in "fiu":
        raise PointError("shape", f"numbers of type {array.dtype} are no coordinates")
    if array.ndim != 2 or not 3 <= array.shape[1] <= COLUMNS:
        raise PointError("shape", f"an array of shape {list(array.shape)}; expected [points, 3 or more numbers]")
    bounded(array.shape[0], limits)
    return array


def read_npy(data: bytes, limits: Limits) -> Table:
    """An array [N, C] of any number type, or [N] with fields called x, y, z and so on. Its header is checked first;
    arrays of objects are refused."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = header(stream)
    except Exception as error:  # a damaged header can raise from the tokenizer and the parser alike
        raise PointError("decode", f"no NPY file: {str(error)[:120]}") from None
    if kind.hasobject:
        raise PointError("unsafe", "an array of Python objects, which only pickle could read")
    if len(shape) == 2 or kind.names:
        bounded(int(shape[0]) if shape else 1, limits)
    wanted = stream.tell() + math.prod(shape) * kind.itemsize
    if wanted > len(data):
        raise PointError("truncated", f"{len(data)} bytes, but an array {list(shape)} of {kind} takes {wanted}")
    stream.seek(0)
    try:
        array = np.load(stream, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise PointError("decode", f"no NPY file: {str(error)[:120]}") from None
    if kind.names and array.ndim == 1:  # fields called x, y, z, ...
        plain = [name for name in kind.names if kind[name].kind in "fiu" and not kind[name].shape]
        return named({name: array[name] for name in plain}, {name: kind[name] for name in plain}, "fields of the array")
    return Table(_table(array, limits), array.dtype)


def read_npz(data: bytes, limits: Limits) -> Table:
    """The array ``points``, ``xyz`` or ``data`` of an NPZ file, or its only one, then ``normals`` and ``colors``, which
    become shares."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            candidates = [name for name in ("points", "xyz", "data") if name in names]
            found = candidates[0] if candidates else next(iter(names)) if len(names) == 1 else None
            if found is None:
                raise PointError("missing", f"no array 'points' in the NPZ file (arrays: {', '.join(names) or 'none'})")

            def member(name: str) -> Table:
                if names[name].file_size > limits.points * _POINT_BYTES + _HEADER:
                    raise PointError("too_large", f"array {name!r} takes {names[name].file_size} bytes when unpacked")
                return read_npy(archive.read(names[name]), limits)

            parts = [member(found), *(member(name) for name in ("normals", "colors") if name in names)]
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError) as error:
        raise PointError("decode", f"no NPZ file: {error}") from None
    except Exception as error:
        if isinstance(error, PointError):
            raise
        raise PointError("corrupt", f"damaged NPZ file: {error}") from None
    counts = [len(part.values) for part in parts]
    if len(set(counts)) != 1:
        raise PointError("shape", f"arrays of {', '.join(map(str, counts))} points in one NPZ file")
    if len(parts) == 1:
        return parts[0]
    notes: tuple[Note, ...] = ()
    values = [part.values.astype(np.float64) for part in parts]
    if "colors" in names:
        values[-1], notes = shares(values[-1], parts[-1].stored, "colours")
    return Table(np.concatenate(values, axis=1), parts[0].stored, notes)


def read_ply(data: bytes, limits: Limits) -> Table:
    """Vertices of a PLY file: x, y, z, then normals, colours and intensity, where there are any. Faces are not read."""
    begin = data[:_HEADER].find(b"end_header")
    end = data.find(b"\n", begin) + 1 if begin >= 0 else 0
    if not data.startswith(b"ply") or not end:
        raise PointError("decode", "no PLY header (it begins with 'ply' and ends with 'end_header')")
    layout, count, fields, before = _ply_header(data[:begin].decode("ascii", "replace"))
    if before:
        raise PointError("decode", f"the PLY file has {before} before its vertices, which is not understood")
    bounded(count, limits, "vertices")
    names = [name for name, _ in fields]
    if layout == "ascii":
        rows = text_rows(data[end:], count, len(fields))
        table: dict[str, NDArray[Any]] = {name: rows[:, index] for index, name in enumerate(names)}
    else:
        kind = np.dtype([(name, ("<" if layout == "binary_little_endian" else ">") + code) for name, code in fields])
        if len(data) - end < count * kind.itemsize:
            raise PointError("truncated", f"{len(data) - end} bytes of vertices, {count * kind.itemsize} are announced")
        records = np.frombuffer(data, kind, count, end)
        table = {name: records[name] for name in names}
    return named(table, {name: np.dtype(code) for name, code in fields}, "PLY vertices")


def _ply_header(text: str) -> tuple[str, int, list[tuple[str, str]], str]:
    """Layout, number of vertices, their fields, and the name of an element that stands before them."""
    fields: list[tuple[str, str]] = []
    layout, count, element, before = "", -1, "", ""
    for line in text.splitlines():
        match line.split():
            case ["format", layout, *_]:
                pass
            case ["element", element, number] if number.isdigit() and len(number) < DIGITS:
                if element == "vertex":
                    count = int(number)
                elif count < 0 and int(number) > 0:
                    before = element
            case ["property", code, name] if element == "vertex":
                if code not in _PLY_TYPES or name in dict(fields):
                    raise PointError("decode", f"PLY property {name!r} of type {code!r} is not understood")
                fields.append((name, _PLY_TYPES[code]))
            case ["property", "list", *_] if element == "vertex":
                raise PointError("decode", "PLY vertices with lists are not understood")
    if layout not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise PointError("decode", f"PLY format {layout!r} is not understood")
    if count < 0:
        raise PointError("decode", "the PLY header announces no vertices")
    return layout, count, fields, before


def read_off(data: bytes, limits: Limits) -> Table:
    """Points on the surface of an OFF mesh (ModelNet), spread by area; its vertices where it has no faces.

    The points are a pure function of the bytes. ModelNet's files that lack the line break after ``OFF`` are read too.
    """
    vertices, faces = read_off_mesh(data, limits)
    points = sample_surface(vertices, faces, limits.surface, data) if len(faces) else vertices
    return Table(points, points.dtype)


def _binary(columns: int, what: str) -> Callable[[bytes, Limits], Table]:
    def read(data: bytes, limits: Limits) -> Table:
        if len(data) % (4 * columns):
            raise PointError(
                "truncated", f"{len(data)} bytes are no whole number of {what} points ({4 * columns} bytes)"
            )
        bounded(len(data) // (4 * columns), limits)
        points = np.frombuffer(data, "<f4").reshape(-1, columns).astype(np.float32)  # a copy that may be written to
        return Table(points, points.dtype)

    return read


def read_text(data: bytes, limits: Limits) -> Table:
    """Lines of numbers, separated by commas, semicolons (commas are then decimal) or blanks (ModelNet40's resampled
    files: x, y, z and the normal).

    A first line with a single number is the count of points (Leica's PTS); one with words names the columns, of which
    those of :data:`NAMES` are given on. Lines that begin with ``#`` or ``//`` are comments.
    """
    bounded(data.count(b"\n"), limits, "lines")
    names: list[str] | None = None
    data = data.removeprefix(b"\xef\xbb\xbf")
    data = data.replace(b",", b".").replace(b";", b" ") if b";" in data else data.replace(b",", b" ")
    rows = [row for line in data.splitlines() if (row := line.split()) and not row[0].startswith((b"#", b"//"))]
    announced = None
    if len(rows) > 1 and len(rows[0]) == 1 and rows[0][0].isdigit() and len(rows[0][0]) < DIGITS:
        announced = int(rows.pop(0)[0])
    elif len(rows) > 1 and rows[0][0].strip(b"\"'")[:1].isalpha() and rows[0][0].lower() not in (b"nan", b"inf"):
        names = [word.decode("utf-8", "replace").strip("\"'").lower() for word in rows.pop(0)]
    if not rows or not 3 <= len(rows[0]) <= COLUMNS:
        raise PointError("decode", f"{len(rows[0]) if rows else 0} numbers in the first line; a point has 3 or more")
    if announced is not None and announced != len(rows):
        raise PointError("truncated", f"{len(rows)} lines of points, but {announced} are announced")
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            kind = "truncated" if number == len(rows) - 1 else "decode"
            raise PointError(kind, f"point {number} has {len(row)} numbers, the first has {len(rows[0])}")
    values = parse_numbers(b" ".join(word for row in rows for word in row)).reshape(len(rows), -1)
    if names is None:
        return Table(values, values.dtype)
    if len(names) != values.shape[1] or len(set(names)) != len(names):
        raise PointError("decode", f"{len(names)} names for {values.shape[1]} columns: {', '.join(names)[:80]}")
    kinds: dict[str, np.dtype[Any]] = {name: values.dtype for name in names}
    there = [index for index, name in enumerate(names) if ALIASES.get(name, name) in COLOURS]
    colours = values[:, there]
    if there and colours.max() > 1 and not (colours % 1).any():  # text says no type, but these were bytes or 16 bits
        kinds |= {names[index]: np.dtype(np.uint8 if colours.max() <= 255 else np.uint16) for index in there}
    return named({name: values[:, index] for index, name in enumerate(names)}, kinds, "lines")


READERS: Mapping[str, Callable[[bytes, Limits], Table]] = MappingProxyType(
    {
        "npy": read_npy,
        "npz": read_npz,
        "ply": read_ply,
        "off": read_off,
        "las": las.read,
        "laz": las.read,
        "pcd": pcd.read,
        "pcd.bin": _binary(5, "nuScenes"),
        "bin": _binary(4, "KITTI"),
        "xyz": read_text,
        "pts": read_text,
        "asc": read_text,
        "txt": read_text,
        "csv": read_text,
    }
)
"""Reader by file extension."""
