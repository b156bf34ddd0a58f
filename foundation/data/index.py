"""``index.json``: what a folder of shards holds, so that opening a thousand shards reads one small file.

::

    {"format": 1, "classes": ["airplane", ...], "splits": {"train": {"samples": 10000, "bytes": 12345678, "shards": [
        {"file": "train-000000.tar", "samples": 1000, "bytes": 1234567, "sha256": "..."}, ...]}}}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from foundation import config, schema
from foundation.errors import UserError
from foundation.files import replace_json
from foundation.plugins import resolve
from foundation.printable import printable

NAME = "index.json"
FORMAT = 1
MOST_BYTES = 256 * schema.MEBIBYTE


class _Shard(TypedDict):
    file: str
    samples: int
    bytes: int
    sha256: str


class _Split(TypedDict):
    shards: list[_Shard]


class _Form(TypedDict):
    format: int
    splits: dict[str, _Split]
    classes: NotRequired[list[str] | None]
    about: NotRequired[dict[str, Any] | None]


@dataclass(frozen=True)
class ShardEntry:
    """One shard of an index.

    Attributes:
        file: name inside the folder.
        samples: in it.
        bytes: size of the file.
        sha256: of the file, hexadecimal.
    """

    file: str
    samples: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        for name in ("samples", "bytes"):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value < 1 << 62:
                raise ValueError(f"{self.file}: {name} is {value!r}, a whole number from 0 on is expected")


@dataclass(frozen=True)
class Index:
    """What a folder holds.

    Attributes:
        splits: shards by split.
        classes: names of the labels, in order; empty when unknown.
        about: free facts, such as the data set's card and the options it was built with.
    """

    splits: Mapping[str, tuple[ShardEntry, ...]]
    classes: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    def entries(self) -> dict[str, ShardEntry]:
        """Every shard by file name."""
        return {entry.file: entry for entries in self.splits.values() for entry in entries}

    @property
    def modality(self) -> str:
        """Folder name in ``foundation/modalities``, as the data set's card says; empty where it says nothing."""
        card = self.about.get("card")
        return str(card.get("modality") or "") if isinstance(card, Mapping) else ""

    @property
    def decode(self) -> Mapping[str, Any]:
        """Settings of the modality's decoder that these shards need, as their builder says; empty for the defaults."""
        settings = self.about.get("decode")
        return settings if isinstance(settings, Mapping) else {}


def default_decoding(modality: str, index: Index | None = None) -> Any:
    """A modality's decode ``Config`` as it stands, or as the builder of some shards says that they are read.

    Args:
        modality: its name.
        index: of the shards.

    Raises:
        UserError: there is no such modality, or the index names settings that it does not have.
    """
    kind = resolve("foundation.modalities.{name}.decode", modality).Config
    if index is None or not index.decode or index.modality != modality:
        return kind()
    return config.from_plain(kind, index.decode, name=f"{NAME} (about.decode)")


def read_index(folder: Path) -> Index | None:
    """The index of a folder, or None when there is none.

    Raises:
        UserError: it cannot be read, or a newer version wrote it.
    """
    path = folder / NAME
    try:
        content = schema.read_bytes(path, MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return parse_index(content, str(path))


def parse_index(text: str | bytes, where: str) -> Index:
    """The index that a text holds.

    Args:
        text: content of an ``index.json``.
        where: its path or address, for messages.

    Raises:
        UserError: damaged, or a newer version wrote it.
    """
    try:
        content = schema.parse(text, where)
        if isinstance(content, dict) and "format" in content and content["format"] != FORMAT:
            raise UserError(
                f"{printable(where)} has format {content['format']!r}, this version reads {FORMAT}: update "
                "foundation-pretrain, or write the index again with 'foundation data index'"
            )
        data = schema.check(_Form, content, where)
        splits = {
            name: tuple(_entry(shard, where) for shard in split["shards"]) for name, split in data["splits"].items()
        }
    except schema.FormError as error:
        raise UserError(f"{error}. Write it again with 'foundation data index FOLDER'") from None
    index = Index(splits, tuple(data.get("classes") or ()), data.get("about") or {})
    listed = Counter(entry.file for entries in splits.values() for entry in entries)
    if listed and (twice := listed.most_common(1)[0])[1] > 1:
        raise UserError(
            f"{printable(where)} is damaged: {printable(twice[0])} is listed {twice[1]} times. Write it again with "
            "'foundation data index FOLDER'"
        )
    return index


def _entry(shard: _Shard, where: str) -> ShardEntry:
    name = shard["file"]
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise schema.FormError(f"{printable(where)} is damaged: {printable(name)!r} is no file of its folder")
    if min(shard["samples"], shard["bytes"]) < 0:
        holds = f"{shard['samples']:,} samples and {shard['bytes']:,} bytes"
        raise schema.FormError(f"{printable(where)} is damaged: {printable(name)} has {holds}")
    return ShardEntry(name, shard["samples"], shard["bytes"], shard["sha256"])


def write_index(folder: Path, index: Index) -> None:
    """Write the index so that a reader sees the old one or the new one, never half of one."""
    splits = {
        name: {
            "samples": sum(entry.samples for entry in entries),
            "bytes": sum(entry.bytes for entry in entries),
            "shards": [asdict(entry) for entry in entries],
        }
        for name, entries in sorted(index.splits.items())
    }
    data = {"format": FORMAT, "classes": list(index.classes), "about": dict(index.about), "splits": splits}
    replace_json(folder / NAME, data)


def merge(
    old: Index | None,
    splits: Mapping[str, Iterable[ShardEntry]],
    classes: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
) -> Index:
    """The old index with some splits replaced or added."""
    kept = dict(old.splits) if old else {}
    kept.update({name: tuple(entries) for name, entries in splits.items()})
    return Index(kept, tuple(classes) or (old.classes if old else ()), dict(about or (old.about if old else {})))
