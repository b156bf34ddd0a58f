"""The cards of a zoo: those in a folder, or those that the index of a zoo on the network has."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from foundation import schema
from foundation.data.addresses import RemoteError, check_secrets, is_remote, shown
from foundation.data.remote import persist
from foundation.errors import UserError
from foundation.files import replace_file
from foundation.voice import to_stderr
from foundation.zoo.entry import Entry, from_plain, read, to_plain
from foundation.zoo.home import Home, absolute, is_forbidden, mirrored, mirrors
from foundation.zoo.sources import path_of, source_of

ZOO_VARIABLE = "FOUNDATION_ZOO"
INDEX = "index.json"
INDEX_FORMAT = 1
_LARGEST_INDEX = 64 * schema.MEBIBYTE


class UnreachableError(UserError):
    """A zoo on the network that has no index that can be read now, and had none before."""


class Index(TypedDict):
    """All cards of a zoo on the network, by name."""

    format: int
    cards: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Listed:
    """A model and where it was found.

    Attributes:
        entry: its card.
        base: folder or address that the sources in the card are relative to.
        origin: of the card, for a person.
        in_place: its files lie beside the card and are used there, not copied: those of the package.
    """

    entry: Entry
    base: str
    origin: str
    in_place: bool = False

    @property
    def folder(self) -> Path | None:
        """Where the files lie that are used in place; None where they have to be pulled."""
        return Path(self.base) if self.in_place and self.entry.files else None

    def file(self, name: str, home: Home) -> Path:
        """Path of a file of the model, which need not be there."""
        if self.in_place:
            (source,) = (file.sources[0] for file in self.entry.files if file.name == name)
            return Path(absolute(self.base, source))
        return home.model(self.entry.name) / name


def of_zoo(address: str, home: Home, only: str | None = None) -> Iterator[Listed]:
    """The models of a zoo.

    Args:
        address: folder or address.
        home: with the last index of zoos on the network.
        only: this name alone; no other card is read.

    Raises:
        UnreachableError: it cannot be asked.
        UserError: it is none, or the card of ``only`` cannot be read; another such card is left out with a warning.
    """
    check_secrets(address)
    if not is_remote(address) or address.startswith("file://"):
        folder = path_of(address)
        if not folder.is_dir():
            raise UserError(f"{folder} is no zoo: no such folder (named by {ZOO_VARIABLE} or --from)")
        for path in sorted(folder.glob("*.yaml")):
            if only in (None, path.stem) and (entry := _readable(partial(read, path), only)) is not None:
                yield Listed(entry, str(folder.resolve()), str(folder))
        return
    for name, card in _cards(address, home).items():
        if only not in (None, name):
            continue
        if (entry := _readable(partial(_of_network, name, card, address), only)) is not None:
            yield Listed(entry, address, shown(address))


def _readable(card: Callable[[], Entry], only: str | None) -> Entry | None:
    """A card; None, with a warning, for one that cannot be read, unless it is the one that is looked for."""
    try:
        return card()
    except UserError as error:
        if only is not None:
            raise
        to_stderr(f"left out: {error}")
        return None


def _of_network(name: str, card: dict[str, Any], address: str) -> Entry:
    """A card of an index, which must not lead to anything of this machine."""
    entry = from_plain(card, f"{shown(address)}, {name!r}")
    if entry.name != name:
        raise UserError(f"{shown(address)}: the card {name!r} of its index is that of {entry.name!r}")
    bad = [source for file in entry.files for source in file.sources if source.startswith("file:")]
    if bad:
        raise UserError(f"{shown(address)}: {name}: a zoo on the network must not name files of this machine: {bad[0]}")
    return entry


def _cards(address: str, home: Home) -> dict[str, dict[str, Any]]:
    """Cards of a zoo on the network, as its index has them; where that cannot be read, those of the last time."""
    where = absolute(address, INDEX)
    kept = home.index(address)
    try:
        text = fetched_index(where, home)
        cards = _plain_cards(text, where)
    except (RemoteError, schema.FormError) as error:
        detail = error.detail if isinstance(error, RemoteError) else str(error)
        if not kept.is_file():
            raise UnreachableError(f"the zoo {shown(address)} cannot be read: {detail}") from None
        to_stderr(f"the zoo {shown(address)} cannot be read ({detail}): its index of the last time is used")
        return _plain_cards(schema.read_bytes(kept, _LARGEST_INDEX), str(kept))
    try:
        replace_file(kept, text)
    except OSError as error:
        raise UserError(home.unusable(error)) from None
    return cards


def _plain_cards(text: bytes, where: str) -> dict[str, dict[str, Any]]:
    """The cards of an index by name, not yet looked at.

    Raises:
        FormError: it is none, or one of another version.
    """
    found = schema.check(Index, schema.parse(text, shown(where)), shown(where))
    if found["format"] != INDEX_FORMAT:
        raise schema.FormError(f"{shown(where)} has format {found['format']}, this version reads {INDEX_FORMAT}")
    return found["cards"]


def parsed(text: bytes, where: str) -> dict[str, Entry]:
    """The cards of an index.

    Args:
        text: of the index.
        where: it comes from, for messages.

    Raises:
        UserError: it is none, or a card in it is none.
    """
    return {name: from_plain(card, f"{shown(where)}, {name!r}") for name, card in _plain_cards(text, where).items()}


def fetched_index(where: str, home: Home) -> bytes:
    """The index of a zoo on the network, or of its mirror.

    Raises:
        RemoteError: it cannot be had.
    """
    failure: RemoteError | None = None
    for address in mirrored(where, mirrors(home)):
        if variable := is_forbidden(address):
            failure = failure or RemoteError(shown(where), "unreadable", f"not asked, as {variable} is set", False)
            continue
        there, storage = source_of(address)

        def ask(there: str = there, storage: Any = storage) -> bytes:
            data = b""
            for piece in storage.stream(there, 0):
                data += piece
                if len(data) > _LARGEST_INDEX:
                    raise RemoteError(shown(there), "too_large", f"more than {_LARGEST_INDEX:,} bytes", False)
            return data

        try:
            return persist(there, ask)
        except RemoteError as error:
            failure = error
    assert failure is not None
    raise failure


def index_of(entries: Sequence[Entry]) -> bytes:
    """The index of a zoo with these models."""
    cards = {entry.name: to_plain(entry) for entry in entries}
    return (json.dumps({"format": INDEX_FORMAT, "cards": cards}, indent=1, ensure_ascii=False) + "\n").encode()
