"""Shards that came from elsewhere: what is in each, and an index beside them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foundation.data.expand import expand
from foundation.data.index import Index, ShardEntry, merge, read_index, write_index
from foundation.data.shards import ShardError, ShardSet
from foundation.data.tar import Table
from foundation.errors import UserError
from foundation.voice import plural


@dataclass
class ShardFacts:
    """One shard.

    Attributes:
        path: of the file.
        samples: in it.
        bytes: of the file.
        problem: what is wrong with it; empty when nothing is.
    """

    path: Path
    samples: int
    bytes: int
    problem: str = ""


def look(path: Path, entry: ShardEntry | None, verify: bool) -> tuple[ShardFacts, Table | None]:
    """Facts of one shard, compared with its entry in an index, and its table if it can be read."""
    row = ShardFacts(path, 0, path.stat().st_size)
    shards = ShardSet([str(path)], [0])
    try:
        table = shards.table(0)
    except ShardError as error:
        row.problem = error.detail
        return row, None
    finally:
        shards.close()
    row.samples = len(table.keys)
    if not table.complete:
        row.problem = f"cut off after sample {row.samples} (no end-of-archive mark)"
    elif not row.samples:
        row.problem = "no samples"
    elif entry and (entry.bytes, entry.samples) != (row.bytes, row.samples):
        row.problem = f"index.json says {plural(entry.samples, 'sample')}, {plural(entry.bytes, 'byte')}"
    elif verify and entry and digest(path) != entry.sha256:
        row.problem = "SHA-256 is not that of index.json"
    elif verify and entry is None:
        row.problem = "no digest to compare with in index.json"
    return row, table


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def index_shards(patterns: Sequence[str]) -> list[tuple[Path, Index]]:
    """Write ``index.json`` beside shards that came from elsewhere.

    The split of a shard is its name without the trailing number (``train-000000.tar`` -> ``train``).

    Returns:
        The indices by folder.

    Raises:
        UserError: a shard cannot be read or has been cut off.
    """
    folders: dict[Path, dict[str, list[ShardEntry]]] = {}
    for path in expand(patterns, several_splits=True):
        row, table = look(path, None, verify=False)
        if row.problem or table is None:
            raise UserError(f"{path}: {row.problem}; nothing was written")
        split = re.sub(r"[-_.]?\d+$", "", path.stem) or "all"
        entry = ShardEntry(path.name, row.samples, row.bytes, digest(path))
        folders.setdefault(path.parent, {}).setdefault(split, []).append(entry)
    result = []
    for folder, splits in folders.items():
        try:
            old = read_index(folder)
        except UserError:
            old = None  # a damaged index is what this command is for
        index = merge(old, splits)
        write_index(folder, index)
        result.append((folder, index))
    return result
