"""Arrays and tables of sensor readings: NPY, CSV and Parquet, read without trusting what they promise."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foundation.data.arrays import array_facts
from foundation.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ARRAYS = ("imu.npy", "npy")
TABLES = ("imu.csv", "imu.parquet", "csv", "tsv", "parquet")
_SIGNS = ",;\t "


class ImuError(ValueError):
    """A recording that cannot be used; ``reason`` is one of :data:`foundation.errors.REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Wanted:
    """Which columns to read.

    Attributes:
        names: of the columns, in the order wanted; numbers as text count from 0.
        given: whether the user named them; else a table without names and an array give their first columns.
        time: name or number of the column of times; None: there is none.
        most: rows at most.
    """

    names: tuple[str, ...]
    given: bool
    time: str | None
    most: int


def read(
    data: bytes, name: str, wanted: Wanted, there: tuple[str, ...] | None, place: tuple[str, str]
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Reads a member.

    Args:
        data: the file.
        name: of the member; its ending says which format.
        wanted: columns.
        there: names of the columns of an array, where the sample's facts give them.
        place: shard and key, for messages.

    Returns:
        [T, C] readings as they are written, and [T] times, where there are any.

    Raises:
        SampleError: an array that cannot be trusted.
        ImuError: its shape, columns or length do not fit.
        UserError: pyarrow is not installed.
    """
    if not data:
        raise ImuError("empty", "no bytes")
    ending = name.lower().rpartition(".")[2]
    if ending == "npy":
        return _array(data, name, wanted, there, place)
    return _parquet(data, wanted) if ending == "parquet" else _csv(data, wanted)


def _places(wanted: Wanted, names: list[str], columns: int) -> list[int]:
    """Numbers of the wanted columns, that of the times last.

    Raises:
        ImuError: reason ``missing``.
    """
    if not names and not wanted.given:
        asked = [str(i) for i in range(len(wanted.names) + (wanted.time is not None)) if str(i) != wanted.time]
        asked = asked[: len(wanted.names)]
    else:
        asked = list(wanted.names)
    asked += [wanted.time] if wanted.time is not None else []
    found, missing = [], []
    for name in asked:
        if name in names:
            found.append(names.index(name))
        elif name.isdigit() and int(name) < columns:
            found.append(int(name))
        else:
            missing.append(name)
    if missing:
        there = ", ".join(names) if names else f"{columns} without names"
        raise ImuError("missing", f"no column {', '.join(missing)} (columns: {there}): set decode.columns")
    return found


def _split(table: NDArray[np.float64], wanted: Wanted) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    return (table[:, :-1], table[:, -1]) if wanted.time is not None else (table, None)


def _check_length(rows: int, wanted: Wanted) -> None:
    if rows > wanted.most:
        raise ImuError("too_large", f"{rows:,} readings are more than max_steps = {wanted.most:,}: cut it into pieces")


def _array(
    data: bytes, name: str, wanted: Wanted, there: tuple[str, ...] | None, place: tuple[str, str]
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    import numpy as np

    (fact,) = array_facts(io.BytesIO(data), name, len(data), *place)
    kind = np.dtype(fact.dtype).kind
    if len(fact.shape) != 2 or kind not in "fiu":
        raise ImuError("shape", f"{fact.dtype} {list(fact.shape)}: readings are numbers [time steps, channels]")
    _check_length(fact.shape[0], wanted)
    if there is not None and len(there) != fact.shape[1]:
        raise ImuError("shape", f"{fact.shape[1]} columns, but the sample's json names {len(there)} (imu_channels)")
    needed = len(wanted.names) + (wanted.time is not None)
    if there is None and fact.shape[0] == needed and fact.shape[1] > 4 * needed:
        raise ImuError("shape", f"{list(fact.shape)}: readings are [time steps, channels]; this looks transposed")
    places = _places(wanted, list(there or ()), fact.shape[1])
    array = np.load(io.BytesIO(data), allow_pickle=False)
    return _split(array[:, places].astype(np.float64), wanted)


def _csv(data: bytes, wanted: Wanted) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    import numpy as np

    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImuError("decode", f"no text: {error}") from error
    lines = text.splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise ImuError("empty", "no rows")
    _check_length(len(lines), wanted)
    sign = max(_SIGNS, key=lambda letter: (lines[0].count(letter), -_SIGNS.index(letter)))
    first = [cell.strip() for cell in next(csv.reader([lines[0]], delimiter=sign))]
    names = [] if all(_is_number(cell) for cell in first) else first
    places = _places(wanted, names, len(first))
    body = lines[1:] if names else lines
    if not body:
        raise ImuError("empty", "a header and no rows")
    if not text.endswith("\n") and len(next(csv.reader([body[-1]], delimiter=sign))) < len(first):
        raise ImuError("truncated", f"the last row has fewer than {len(first)} columns: {body[-1][:60]!r}")
    try:
        table = np.loadtxt(body, delimiter=sign, usecols=places, ndmin=2, comments=None, quotechar='"')
    except (ValueError, IndexError) as error:
        raise ImuError("decode", f"not a table of numbers: {error}") from error
    return _split(table, wanted)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


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


def _parquet(data: bytes, wanted: Wanted) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    import numpy as np

    if data[:4] != b"PAR1":
        raise ImuError("decode", f"begins with {data[:4]!r}, a Parquet file with b'PAR1'")
    if data[-4:] != b"PAR1":
        raise ImuError("truncated", "a Parquet file ends with b'PAR1'; this one was cut off")
    arrow = library()
    try:
        file = arrow.parquet.ParquetFile(arrow.BufferReader(data))
        _check_length(file.metadata.num_rows, wanted)
        names = list(file.schema_arrow.names)
        chosen = [names[place] for place in _places(wanted, names, len(names))]
        table = file.read(columns=chosen)
        columns = [table.column(name).to_numpy() for name in chosen]
        return _split(np.stack([np.asarray(column, np.float64) for column in columns], axis=1), wanted)
    except (arrow.ArrowException, ValueError, TypeError, OSError) as error:
        if isinstance(error, ImuError):
            raise
        raise ImuError("decode", f"Parquet: {error}") from error
