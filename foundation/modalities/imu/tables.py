"""Arrays and tables of sensor readings: NPY, CSV and Parquet, read without trusting what they promise."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundation.data.arrays import array_facts
from foundation.errors import Note, UserError
from foundation.modalities.imu.columns import Found, find
from foundation.modalities.imu.errors import ImuError

ARRAYS = ("imu.npy", "npy")
TABLES = ("imu.csv", "imu.parquet", "csv", "tsv", "parquet")
_SIGNS = "\t;, "
"""What may stand between cells, in the order in which it is tried. Commas are decimal where something else does."""
_EMPTY = ("", "na", "n/a", "null", "none", "-", "nan")
_NONE = -(1 << 63)  # how NumPy writes a date that is none
_EXACT = 15  # digits that a float64 keeps


@dataclass(frozen=True)
class Wanted:
    """Which columns to read.

    Attributes:
        names: of the columns, in the order wanted; numbers as text count from 0.
        given: whether the user named them; else they are found by :mod:`foundation.modalities.imu.columns`, and a table
            without names and an array give their first columns.
        time: name or number of the column of times; None: the one that is called so, where times are needed.
        timed: whether times are needed, because nothing else says the rate.
        most: rows at most.
    """

    names: tuple[str, ...]
    given: bool
    time: str | None
    timed: bool
    most: int


@dataclass(frozen=True)
class Table:
    """Readings as they are written.

    Attributes:
        values: float64 [T, C]; NaN where a cell is empty.
        units: of each channel as its column's name says, in the words of :mod:`foundation.modalities.imu.units`; empty
            where it says none.
        times: [T], whole numbers as they are, else float64; None: there is no column of times.
        time_unit: of them, as their type or the column's name says; empty where neither does.
        notes: what is worth knowing of the file.
    """

    values: NDArray[np.float64]
    units: tuple[str, ...]
    times: NDArray[Any] | None
    time_unit: str
    notes: tuple[Note, ...] = ()


def read(data: bytes, name: str, wanted: Wanted, there: tuple[str, ...] | None, origin: tuple[str, str]) -> Table:
    """Reads a member.

    Args:
        data: the file.
        name: of the member; its ending says which format.
        wanted: columns.
        there: names of the columns of an array, where the sample's facts give them.
        place: shard and key, for messages.

    Raises:
        SampleError: an array that cannot be trusted.
        ImuError: its shape, columns or length do not fit.
        UserError: pyarrow is not installed.
    """
    if not data:
        raise ImuError("empty", "no bytes")
    ending = name.lower().rpartition(".")[2]
    if ending == "npy":
        return _array(data, name, wanted, there, origin)
    return _parquet(data, wanted) if ending == "parquet" else _csv(data, wanted)


def _find(wanted: Wanted, names: Sequence[str], columns: int) -> Found:
    found = find(wanted.names, wanted.given, wanted.time, names, columns)
    return found if wanted.time is not None or wanted.timed else replace(found, time=None, time_unit="")


def _check_length(rows: int, wanted: Wanted) -> None:
    if rows > wanted.most:
        raise ImuError("too_large", f"{rows:,} readings are more than max_steps = {wanted.most:,}: cut it into pieces")


def _array(data: bytes, name: str, wanted: Wanted, there: tuple[str, ...] | None, origin: tuple[str, str]) -> Table:

    # Missing numbers are left out or bridged like a table's; only the array's promises are looked at here.
    (fact,) = array_facts(io.BytesIO(data), name, len(data), *origin, finite=False)
    kind = np.dtype(fact.dtype).kind
    if len(fact.shape) != 2 or kind not in "fiu":
        raise ImuError("shape", f"{fact.dtype} {list(fact.shape)}: readings are numbers [time steps, channels]")
    _check_length(fact.shape[0], wanted)
    if there is not None and len(there) != fact.shape[1]:
        raise ImuError("shape", f"{fact.shape[1]} columns, but the sample's json names {len(there)} (imu_channels)")
    needed = len(wanted.names) + (wanted.time is not None)
    if there is None and fact.shape[0] == needed and fact.shape[1] > 4 * needed:
        raise ImuError("shape", f"{list(fact.shape)}: readings are [time steps, channels]; this looks transposed")
    found = _find(wanted, there or (), fact.shape[1])
    array = np.load(io.BytesIO(data), allow_pickle=False)
    times = None if found.time is None else array[:, found.time]
    return Table(array[:, list(found.indices)].astype(np.float64), found.units, times, found.time_unit)


def _csv(data: bytes, wanted: Wanted) -> Table:

    text = _text(data)
    lines = _rows(text)
    _check_length(len(lines), wanted)
    sign = _sign(lines)
    first = _cells(lines[0], sign)
    names = [] if all(_is_number(cell) for cell in first) else first
    found = _find(wanted, names, len(first))
    body = lines[1:] if names else lines
    if not body:
        raise ImuError("empty", "a header and no rows")
    cut: tuple[Note, ...] = ()
    if len(body) > 1 and not text.endswith("\n") and len(_cells(body[-1], sign)) < len(first):
        cut = (Note("truncated", f"the last row was cut off and is left out: {body[-1][:60]!r}"),)
        body = body[:-1]
    decimal = body if sign == "," or not any("," in line for line in body[:50]) else [x.replace(",", ".") for x in body]
    together = () if found.time is None or not _is_short(body[0], found.time, sign) else (found.time,)
    indices = (*found.indices, *together)
    try:
        values = np.loadtxt(
            decimal, delimiter=sign, usecols=indices, ndmin=2, comments=None, quotechar='"', dtype=np.float64
        )
    except (ValueError, IndexError):  # an empty cell, or worse: slower, and able to say where
        values = _numbers(body, indices, names or [str(i) for i in range(len(first))], sign)
    if together:
        return Table(values[:, :-1], found.units, values[:, -1], found.time_unit, cut)
    times = None if found.time is None else _times(body, found.time, sign)
    if times is not None and times.dtype.kind == "M":
        return Table(values, found.units, times.astype("datetime64[ns]").astype(np.int64), "ns", cut)
    return Table(values, found.units, times, found.time_unit, cut)


def _text(data: bytes) -> str:
    """A table's text: UTF-8, or UTF-16 where a mark says so, or Latin-1 (``m/s²`` by older programs)."""
    try:
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return data.decode("utf-16")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if b"\0" in data or data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise ImuError("decode", f"no text: {error}") from error
        return data.decode("latin-1")


def _rows(text: str) -> list[str]:
    """Lines of a table without comments; a comment right above numbers that has as many cells holds their names."""
    lines = [line for line in text.splitlines() if line and not line.isspace()]
    if lines and lines[0].startswith("sep="):  # for Excel
        del lines[0]
    rows = [line for line in lines if line[0] != "#"] if "#" in text else lines
    if not rows:
        raise ImuError("empty", "no rows")
    index = lines.index(rows[0])
    if index:
        names, sign = lines[index - 1].lstrip("# \t"), _sign(rows)
        first = _cells(rows[0], sign)
        if len(_cells(names, sign)) == len(first) and any(_is_number(cell) for cell in first):
            return [names, *rows]
    return rows


def _sign(lines: Sequence[str]) -> str:
    """What stands between cells: the first sign that gives the first two rows as many cells, most of them numbers."""
    last = lines[min(1, len(lines) - 1)]
    for sign in _SIGNS:
        head, row = _cells(lines[0], sign), _cells(last, sign)
        filled = [cell for cell in row if cell.lower() not in _EMPTY]
        # A row may lack the last cells, and its time may be words.
        if 1 < len(row) <= len(head) and 2 * sum(_is_number(cell) for cell in filled) >= len(filled):
            return sign
    return max(_SIGNS, key=lines[0].count)


def _cells(line: str, sign: str) -> list[str]:
    if sign == " ":
        line = " ".join(line.split())
    cells = [cell.strip() for cell in next(csv.reader([line], delimiter=sign, skipinitialspace=True), [])]
    return (
        cells
        if sign == ","
        else [cell.replace(",", ".") if _is_number(cell.replace(",", ".")) else cell for cell in cells]
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(body: Sequence[str], indices: Sequence[int], names: Sequence[str], sign: str) -> NDArray[np.float64]:
    """[T, C] numbers of a table in which cells are empty: NaN there.

    Raises:
        ImuError: a cell that is neither empty nor a number; a row that lacks a column.
    """

    values = np.full((len(body), len(indices)), np.nan)
    for row, line in enumerate(body):
        cells = _cells(line, sign)
        for column, index in enumerate(indices):
            cell = cells[index] if index < len(cells) else None
            if cell is None:
                raise ImuError("decode", f"not a table of numbers: row {row} has {len(cells)} columns: {line[:60]!r}")
            if cell.lower() in _EMPTY:
                continue
            try:
                values[row, column] = float(cell)
            except ValueError:
                where = f"row {row}, column {names[index]}"
                raise ImuError("decode", f"not a table of numbers: {where}: {cell[:40]!r}") from None
    return values


def _is_short(line: str, index: int, sign: str) -> bool:
    """Whether the time in a row is a number that a float64 keeps."""
    cells = _cells(line, sign)
    cell = cells[index] if index < len(cells) else ""
    digits = cell.lstrip("+-")
    return _is_number(cell) and not (digits.isdigit() and len(digits) > _EXACT)


def _times(body: Sequence[str], index: int, sign: str) -> NDArray[Any]:
    """[T] times that are no plain numbers: whole numbers of many digits as int64, dates as datetime64."""

    cells = [cells[index] if index < len(cells) else "" for cells in (_cells(line, sign) for line in body)]
    if not _is_number(next((cell for cell in cells if cell.lower() not in _EMPTY), "0")):
        return _dates(cells)
    try:
        return np.array([int(cell) if cell.lower() not in _EMPTY else _NONE for cell in cells], dtype=np.int64)
    except (ValueError, OverflowError):
        return np.array([float(cell) if _is_number(cell) else np.nan for cell in cells])


def _dates(cells: Sequence[str]) -> NDArray[Any]:
    """[T] datetime64[ns] (UTC) of ISO 8601; no time where a cell is empty.

    Raises:
        ImuError: a cell that is no time.
    """
    from datetime import UTC, datetime

    found = np.full(len(cells), np.datetime64("NaT"), "datetime64[ns]")
    for row, cell in enumerate(cells):
        if cell.lower() in _EMPTY:
            continue
        try:
            moment = datetime.fromisoformat(cell)
        except ValueError:
            raise ImuError("decode", f"row {row}: {cell[:40]!r} is no time: a number or ISO 8601") from None
        found[row] = np.datetime64(moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment, "ns")
    return found


def library() -> Any:
    """The Parquet reader of the package pyarrow.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            f"reading Parquet needs the package pyarrow ({error}): pip install 'foundation-pretrain[imu]'"
        ) from None
    return pyarrow


def _parquet(data: bytes, wanted: Wanted) -> Table:

    if data[:4] != b"PAR1":
        raise ImuError("decode", f"begins with {data[:4]!r}, a Parquet file with b'PAR1'")
    if data[-4:] != b"PAR1":
        raise ImuError("truncated", "a Parquet file ends with b'PAR1'; this one was cut off")
    arrow = library()
    try:
        file = arrow.parquet.ParquetFile(arrow.BufferReader(data))
        _check_length(file.metadata.num_rows, wanted)
        names = list(file.schema_arrow.names)
        found = _find(wanted, names, len(names))
        chosen = [names[index] for index in found.indices]
        table = file.read(columns=[*dict.fromkeys([*chosen, *([] if found.time is None else [names[found.time]])])])
        if not table.num_rows:
            raise ImuError("empty", "no rows")
        values = np.stack([np.asarray(table.column(name).to_numpy(), np.float64) for name in chosen], axis=1)
        if found.time is None:
            return Table(values, found.units, None, "")
        times = table.column(names[found.time]).to_numpy()
        if times.dtype.kind == "M":
            return Table(values, found.units, times.astype("datetime64[ns]").astype(np.int64), "ns")
        if times.dtype.kind == "O":  # text
            times = _dates([str(cell or "") for cell in times]).astype(np.int64)
            return Table(values, found.units, times, "ns")
        return Table(values, found.units, times, found.time_unit)
    except (arrow.ArrowException, ValueError, TypeError, OSError) as error:
        if isinstance(error, ImuError):
            raise
        raise ImuError("decode", f"Parquet: {error}") from error
