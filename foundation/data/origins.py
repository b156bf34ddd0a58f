"""From what a recipe names as shards to where each of them comes from, and how many samples the index promises."""

from __future__ import annotations

import difflib
import fnmatch
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foundation.data.addresses import (
    RemoteError,
    beside,
    check_secrets,
    is_http,
    is_pipe,
    is_remote,
    local_path,
    name_of,
    shown,
)
from foundation.data.cache import Expected
from foundation.data.expand import braces, expand, refuse_several_splits
from foundation.data.index import NAME, Index, ShardEntry, parse_index, read_index
from foundation.data.remote import fetch_text, persist
from foundation.data.storages import FsspecStorage, storage_of
from foundation.errors import UserError


@dataclass(frozen=True)
class Origin:
    """Where a shard comes from.

    Attributes:
        address: its path or address.
        expected: what is known about it: of a local file, ``tag`` is the time of its last change in nanoseconds.
        remote: no local file.
    """

    address: str
    expected: Expected = field(default_factory=Expected)
    remote: bool = False

    @property
    def name(self) -> str:
        """The address as it may be printed."""
        return shown(self.address) if self.remote else self.address


@dataclass(frozen=True)
class Found:
    """A shard that a pattern named.

    Attributes:
        origin: of it.
        samples: that its index promises, None when no index knows it.
    """

    origin: Origin
    samples: int | None


class Finder:
    """Looks patterns up, reading each index once.

    Args:
        allow_pipes: ``pipe:COMMAND`` may be a shard.

    Attributes:
        classes: names of the labels, of the first index that has some.
    """

    def __init__(self, allow_pipes: bool = False) -> None:
        self.allow_pipes = allow_pipes
        self.classes: tuple[str, ...] = ()
        self._indices: dict[str, Index | None] = {}
        self._entries: dict[str, dict[str, ShardEntry]] = {}

    @property
    def about(self) -> dict[str, Mapping[str, Any]]:
        """What the index of each folder says besides; nothing where it has none. Folders as they may be printed."""
        return {
            shown(folder) if is_remote(folder) else folder: index.about if index else {}
            for folder, index in self._indices.items()
        }

    def find(self, patterns: Sequence[str | Path]) -> list[Found]:
        """All shards, sorted, local ones first, each once.

        Raises:
            UserError: nothing there, or something that cannot be used.
        """
        texts = [str(pattern) for pattern in patterns]
        for text in texts:
            check_secrets(text)
        texts = [local_path(text) if text.startswith("file://") else text for text in texts]
        local = [text for text in texts if not is_remote(text)]
        remote = {address for text in texts if is_remote(text) for address in self._expand(text)}
        found = [self._local(path) for path in expand(local)] if local or not remote else []
        sizes_checked: set[str] = set()
        for address in sorted(remote, key=lambda text: text.split("/")):
            found.append(self._remote(address, sizes_checked))
        return found

    def _local(self, path: Path) -> Found:
        folder = path.parent
        entry = self._entry(str(folder), path.name, lambda: read_index(folder))
        facts = os.stat(path)
        if entry is not None and facts.st_size != entry.bytes:
            raise UserError(
                f"{path} has {facts.st_size} bytes, {folder / NAME} says {entry.bytes}: the shard was cut off or "
                f"written again. Copy it anew, or write the index again with 'foundation data index {folder}'"
            )
        expected = Expected(facts.st_size, entry.sha256 if entry else "", str(facts.st_mtime_ns))
        return Found(Origin(str(path), expected), entry.samples if entry else None)

    def _remote(self, address: str, checked: set[str]) -> Found:
        if is_pipe(address):
            return Found(Origin(address, remote=True), None)
        folder = beside(address, "")
        entry = self._entry(folder, name_of(address), lambda: self._fetch_index(folder))
        if entry is not None and folder in checked:
            return Found(Origin(address, Expected(entry.bytes, entry.sha256), True), entry.samples)
        # One question for each folder finds a stale index, wrong names and missing rights before the run begins.
        checked.add(folder)
        try:
            facts = persist(address, lambda: storage_of(address).stat(address))
        except RemoteError as error:
            raise UserError(str(error)) from error
        if entry is None:
            if facts.size is None:
                raise UserError(
                    f"{shown(address)}: the server does not say how large it is; put an {NAME} beside the shards "
                    "('foundation data index FOLDER' writes it where they lie)"
                )
            return Found(Origin(address, Expected(facts.size, "", facts.tag), True), None)
        if facts.size is not None and facts.size != entry.bytes:
            raise UserError(
                f"{shown(address)} has {facts.size} bytes, the {NAME} beside it says {entry.bytes}: the shard was "
                "written again or not copied whole; copy shards and index together"
            )
        return Found(Origin(address, Expected(entry.bytes, entry.sha256), True), entry.samples)

    def _entry(self, folder: str, name: str, read: Callable[[], Index | None]) -> ShardEntry | None:
        if folder not in self._indices:
            self._indices[folder] = index = read()
            self._entries[folder] = index.entries() if index else {}
            self.classes = self.classes or (index.classes if index else ())
        return self._entries[folder].get(name)

    def _fetch_index(self, folder: str) -> Index | None:
        address = beside(folder, NAME)
        try:
            text = fetch_text(address)
        except RemoteError as error:
            raise UserError(f"the index cannot be read: {error}") from error
        return None if text is None else parse_index(text, shown(address))

    def _index(self, folder: str) -> Index | None:
        self._entry(folder, "", lambda: self._fetch_index(folder))
        return self._indices[folder]

    def _expand(self, pattern: str) -> list[str]:
        if is_pipe(pattern):
            if not self.allow_pipes:
                raise UserError(
                    f"{pattern!r} would start a program; if you trust the recipe, set data.allow_pipes: true"
                )
            return braces(pattern)
        if "::" in pattern.partition("://")[0]:
            raise UserError(f"{shown(pattern)}: chained addresses are not supported; shards are plain .tar files")
        addresses: list[str] = []
        for address in braces(pattern):
            name = name_of(address)
            path = address.partition("?")[0] if is_http(address) else address
            if path.endswith("/") or "." not in name:
                addresses.extend(self._folder(address if path.endswith("/") else beside(address, name + "/")))
            elif any(sign in path for sign in "*[") or (not is_http(address) and "?" in path):
                addresses.extend(self._glob(address))
            else:
                addresses.append(address)
        return addresses

    def _folder(self, folder: str) -> list[str]:
        names = self._names(folder)
        if not names:
            raise UserError(f"no shards in the folder {shown(folder)}, and no {NAME} that names some")
        refuse_several_splits(shown(folder).rstrip("/"), names, self._index(folder))
        return [beside(folder, name) for name in names]

    def _names(self, folder: str) -> list[str]:
        """Shards of a folder: what its index names, else what the file system lists."""
        index = self._index(folder)
        if index is not None:
            return sorted(name for name in index.entries() if "/" not in name)
        return [] if is_http(folder) else [name_of(address) for address in self._listed(beside(folder, "*.tar"))]

    def _glob(self, pattern: str) -> list[str]:
        folder, name = beside(pattern, ""), name_of(pattern)
        if any(sign in (folder.partition("?")[0] if is_http(folder) else folder) for sign in "*["):
            if is_http(pattern):
                raise UserError(f"{shown(pattern)}: over HTTP only the name of the file may be a pattern")
            found = self._listed(pattern)
            names: list[str] = []
        else:
            names = self._names(folder)
            found = [beside(folder, one) for one in names if fnmatch.fnmatchcase(one, name)]
            if not found and not is_http(pattern):
                found = self._listed(pattern)
        if not found:
            near = difflib.get_close_matches(name, names, n=4, cutoff=0.5) or names[:4]
            hint = f"; its {NAME} names {', '.join(near)}" if near else ""
            if not names and is_http(pattern):
                hint = f": a pattern over HTTP needs the {NAME} that 'foundation data index' writes beside the shards"
            raise UserError(f"no shards match {shown(pattern)}{hint}")
        return found

    def _listed(self, pattern: str) -> list[str]:

        storage = storage_of(pattern)
        assert isinstance(storage, FsspecStorage), pattern
        try:
            return persist(pattern, lambda: storage.glob(pattern))
        except RemoteError as error:
            raise UserError(str(error)) from error
