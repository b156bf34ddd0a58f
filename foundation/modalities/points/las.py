"""LAS and LAZ, through laspy. What a header claims is compared with the file first.

laspy reads as many records as a header announces, and its decompressor ends the whole process where it is refused the
memory that a damaged file asks for: no exception tells of that. It is used with one thread, because the threads of the
other one ask for as many points at once as a chunk is said to hold, and loader workers share the processor anyway.
"""

from __future__ import annotations

import io
import struct

import numpy as np

from foundation.errors import UserError
from foundation.modalities.points.precision import Table, shares, strengths
from foundation.modalities.points.tables import COLOURS, Limits, PointError, bounded

_RECORD, _LONG_RECORD = 54, 60
"""Bytes of the header of a variable length record, and of an extended one."""
_LASZIP = 22204  # number of the record that says how points are compressed
_ITEMS = 32  # where in it the parts of a point are listed
_NEWEST = 4  # minor version from which there are extended records


def check_claims(data: bytes, limits: Limits) -> None:
    """Compare what a file claims with its bytes.

    Args:
        data: the file, which begins with ``LASF``.
        limits: of points.

    Raises:
        PointError: reason ``truncated``: it claims more than it holds; ``too_large``: more chunks than the limit of
            points; ``decode``: no whole header, or what it says of its compression contradicts itself.
    """
    try:
        minor = data[25]
        size, begin, records, form, point_bytes = struct.unpack_from("<HIIBH", data, 94)
        _fits(data, begin, 0, "its points begin")
        _fits(data, size, records * _RECORD, f"{records} records")
        if minor >= _NEWEST:
            first, more = struct.unpack_from("<QI", data, 235)
            _fits(data, first if more else 0, more * _LONG_RECORD, f"{more} extended records")
        if form & 0x80:
            _check_compression(data, size, begin, records, point_bytes, limits)
    except (struct.error, IndexError):
        raise PointError(
            "decode", f"{len(data)} bytes: no whole LAS header, or one that points behind the end"
        ) from None


def _fits(data: bytes, offset: int, size: int, what: str) -> None:
    if offset + size > len(data):
        raise PointError("truncated", f"{len(data)} bytes, but {what} at {offset}")


def _check_compression(data: bytes, offset: int, begin: int, records: int, point_bytes: int, limits: Limits) -> None:
    """Raises as :func:`check_claims`; also ``struct.error`` where something lies behind the end of the file."""
    for _ in range(records):
        number, length = struct.unpack_from("<HH", data, offset + 18)
        offset += _RECORD
        if number == _LASZIP:
            (items,) = struct.unpack_from("<H", data, offset + _ITEMS)
            sizes = [struct.unpack_from("<H", data, offset + _ITEMS + 4 + 6 * item)[0] for item in range(items)]
            if sum(sizes) != point_bytes:
                raise PointError("decode", f"damaged LAZ file: points of {point_bytes} bytes have parts of {sizes}")
        offset += length
    (table,) = struct.unpack_from("<q", data, begin)
    if table < 0:  # written without seeking: its place is the end of the file
        (table,) = struct.unpack_from("<q", data, len(data) - 8)
    if table < 0:
        raise PointError("decode", "damaged LAZ file: no table of its chunks")
    (chunks,) = struct.unpack_from("<I", data, table + 4)
    bounded(chunks, limits, "chunks of points")


def read(data: bytes, limits: Limits) -> Table:
    """LAS or LAZ: x, y, z in the file's unit, then the intensity and, where there are any, red, green and blue, 0 to
    1."""
    if data[:4] != b"LASF":
        raise PointError("decode", "no LAS file: it does not begin with 'LASF'")
    check_claims(data, limits)
    try:
        import laspy
    except ImportError as error:
        raise UserError("LAS and LAZ files need laspy: pip install 'foundation-pretrain[points]'") from error
    try:
        with laspy.open(io.BytesIO(data), laz_backend=laspy.LazBackend.Lazrs) as file:
            count = int(file.header.point_count)
            bounded(count, limits)
            if not file.header.are_points_compressed:
                least = file.header.offset_to_point_data + count * file.header.point_format.size
                if least > len(data):
                    raise PointError("truncated", f"{len(data)} bytes, but {count} points take {least}")
            cloud = file.read()
    except PointError:
        raise
    except Exception as error:  # laspy and its decompressors raise many types on damaged files
        raise PointError("decode", f"damaged LAS file: {error}") from None
    if len(cloud.points) != count:
        raise PointError("truncated", f"{len(cloud.points)} points, but {count} are announced")
    xyz = np.stack([np.asarray(cloud.x), np.asarray(cloud.y), np.asarray(cloud.z)], 1, dtype=np.float64)
    intensity, notes = strengths(np.asarray(cloud.intensity), np.dtype(np.uint16))
    columns = [xyz, intensity[:, None]]
    if set(COLOURS) <= set(cloud.point_format.dimension_names):
        whole = np.stack([np.asarray(cloud[name]) for name in COLOURS], axis=1)
        colours, more = shares(whole, np.dtype(np.uint16), "colours")
        columns.append(colours)
        notes += more
    return Table(np.concatenate(columns, axis=1), np.dtype(np.int32), notes)
