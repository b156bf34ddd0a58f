"""Manifests: tables of files with labels and splits, as spreadsheets and scripts write them."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from foundation.errors import UserError

_COLUMNS = ("path", "label", "split")
_SIGNS = ",;\t"


@dataclass(frozen=True)
class Row:
    """One file.

    Attributes:
        line: of the manifest, at which the row ends.
        path: as it is written there.
        label: name of the class; empty where there is none.
        split: as it is written; empty where there is none.
    """

    line: int
    path: str
    label: str
    split: str


def read_manifest(manifest: Path) -> list[Row]:
    """Reads a manifest with the columns ``path``, ``label`` (optional) and ``split`` (optional), among others.

    Text is UTF-8 or, with its mark, UTF-16. Commas, semicolons or tabs stand between cells. Small and capital letters
    and blanks around a column's name do not matter.

    Raises:
        UserError: it cannot be read, has no column ``path`` or two of a name, or a row that has more cells than there
            are columns, or no path.
    """
    try:
        data = manifest.read_bytes()
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        head = text.partition("\n")[0]
        sign = max(_SIGNS, key=head.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=sign, skipinitialspace=True)
        columns = [name.strip() for name in next(reader, [])]
        indices = _places(manifest, columns)
        return [_row(manifest, reader.line_num, cells, columns, indices) for cells in reader if cells]
    except OSError as error:
        raise UserError(f"--csv {manifest}: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"--csv {manifest}: {error}; a manifest is a table in UTF-8") from error


def _places(manifest: Path, columns: list[str]) -> dict[str, int]:
    """Number of each column that counts."""
    lower = [name.lower() for name in columns]
    if "path" not in lower:
        raise UserError(f"{manifest}: no column 'path' (columns: {', '.join(columns) or 'none'})")
    if twice := [name for name in _COLUMNS if lower.count(name) > 1]:
        raise UserError(f"{manifest}: two columns are called {twice[0]!r}")
    return {name: lower.index(name) for name in _COLUMNS if name in lower}


def _row(manifest: Path, line: int, cells: list[str], columns: list[str], indices: dict[str, int]) -> Row:
    if any(cells[len(columns) :]):
        raise UserError(
            f"{manifest}, line {line}: {len(cells)} cells for {len(columns)} columns: put quotes around a cell that "
            "holds the sign between cells"
        )
    path, label, split = (
        cells[indices[name]] if indices.get(name, len(cells)) < len(cells) else "" for name in _COLUMNS
    )
    if not path:
        raise UserError(f"{manifest}, line {line}: empty path")
    return Row(line, path, label.strip(), split.strip())
