"""Which models there are: of the package, of the zoos that ``FOUNDATION_ZOO`` names, and those that were pulled.

A zoo is a folder of cards, ``NAME.yaml``, as ``model_zoo`` of this package is one. On the network it has an index too,
``index.json`` with all cards, so that one answer tells what there is.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from foundation import schema
from foundation.data.addresses import RemoteError, check_secrets, is_remote, shown
from foundation.data.remote import persist
from foundation.errors import UserError
from foundation.files import replace_file
from foundation.paths import bundled
from foundation.plugins import near
from foundation.redact import redact
from foundation.voice import plural, to_stderr
from foundation.zoo import fetch as fetching
from foundation.zoo.entry import Entry, from_plain, is_name, matches, no_such, read, to_plain
from foundation.zoo.home import Home, absolute, is_forbidden, mirrored, mirrors
from foundation.zoo.sources import path_of, source_of

ZOO_VARIABLE = "FOUNDATION_ZOO"
INDEX = "index.json"
INDEX_FORMAT = 1
_LARGEST_INDEX = 64 * schema.MEBIBYTE


class UnreachableError(UserError):
    """A zoo on the network that cannot be asked now, and was not before."""


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


def addresses(given: str | None = None) -> list[str]:
    """Zoos to look in beside that of the package: what is given, else the words of ``FOUNDATION_ZOO``."""
    return (os.environ.get(ZOO_VARIABLE, "") if given is None else given).split()


def listed(given: str | None = None, home: Home | None = None) -> dict[str, Listed]:
    """All models that can be had, by name. Of two with one name the first zoo's counts: those of ``FOUNDATION_ZOO`` in
    its order, then the package's.

    Args:
        given: a zoo to look in alone, folder or address.
        home: with the last index of zoos on the network.

    Raises:
        UserError: a zoo cannot be read. One of ``FOUNDATION_ZOO`` that is out of reach is left out, with a warning.
    """
    home = home or Home()
    found: dict[str, Listed] = {}
    for address in addresses(given):
        try:
            for one in _of_zoo(address, home):
                found.setdefault(one.entry.name, one)
        except UnreachableError as error:
            if given is not None:
                raise
            to_stderr(f"left out: {error}")  # what the others have can be loaded without it
    if given is None:
        found = _package() | found
    return found


def list_models(text: str = "", modality: str = "") -> list[Entry]:
    """Cards of the models that there are, by name.

    Args:
        text: words that name, summary, recipe, data or licence of a card contain.
        modality: such as ``image``.

    Raises:
        UserError: a zoo cannot be read.
    """
    there = listed()
    return [there[name].entry for name in sorted(there) if matches(there[name].entry, text, modality)]


def find(name: str, home: Home | None = None, given: str | None = None) -> Listed | None:
    """A model by its name; None where there is none. One that was pulled counts as it was then, until it is pulled
    anew.

    Raises:
        UserError: a zoo cannot be read.
    """
    home = home or Home()
    if given is None and (pulled := home.pulled(name)) is not None:
        return Listed(pulled[0], "", pulled[1])
    return listed(given, home).get(name)


def require(name: str, home: Home | None = None, given: str | None = None) -> Listed:
    """As :func:`find`, of a model that must be there.

    Raises:
        UserError: there is none; names those with names like it.
    """
    home = home or Home()
    found = find(name, home, given)
    if found is None:
        raise UserError(no_such(name, sorted({*listed(given, home), *home.names()})))
    return found


def named(text: str) -> Entry | None:
    """The card of a model by its name; None for what is none.

    Raises:
        UserError: a zoo cannot be read.
    """
    found = find(text) if is_name(text) else None
    return None if found is None else found.entry


def near_name(text: str) -> str:
    """``; did you mean ...?`` where models of the zoo have names like this one."""
    return near(text, sorted({*listed(), *Home().names()}), most=3) if is_name(text) else ""


def weights_of(name: str, home: Home | None = None, fetch: bool = True) -> Path:
    """Path of a model's weights, which are pulled where they are not here; all files have been compared with its card.

    Args:
        name: of a model that has files.
        home: where models are pulled to.
        fetch: pull what is not here; else that is an error.

    Raises:
        UserError: there is no such model, or it cannot be had.
    """
    home = home or Home()
    one = require(name, home)
    assert one.entry.weights is not None, name
    path = one.file(one.entry.weights.name, home)
    if one.in_place:
        for file in one.entry.files:
            if wrong := fetching.trouble(one.file(file.name, home), file, home):
                raise UserError(f"{one.file(file.name, home)}: {wrong}: install the package again")
        return path
    if fetching.is_here(one.entry, home):
        return path
    if not fetch:
        raise UserError(f"{name} is not on this machine: 'foundation zoo pull {name}' gets it")
    if not one.base:  # a damaged copy: from where it came
        damaged, there = one, listed(None, home).get(name)
        if there is None:
            raise _lost(damaged, home, troubles(damaged, home))
        one = there
    to_stderr(f"{name} is not here yet: it is pulled from {redact(one.origin)} into {home.folder}")
    fetching.pull(one.entry, one.base, one.origin, home)
    return path


def _lost(one: Listed, home: Home, wrong: Sequence[str]) -> UserError:
    return UserError(
        f"{one.entry.name} in {home.folder} is damaged ({'; '.join(wrong)}) and no zoo has it now: it came from "
        f"{redact(one.origin)}; name that by {ZOO_VARIABLE} and run 'foundation zoo pull {one.entry.name}'"
    )


def everything(
    given: str | None = None, home: Home | None = None, pulled_only: bool = False, local: bool = False
) -> list[Listed]:
    """Models by name: those that can be had, and those that were pulled.

    Args:
        given: a zoo to look in alone.
        home: where models are pulled to.
        pulled_only: those that were.
        local: nothing is asked of a zoo: those of the package and those that were pulled.
    """
    home = home or Home()
    found = {} if pulled_only else dict(_package() if local and given is None else listed(given, home))
    for name in home.names() if given is None or pulled_only else ():
        if (pulled := home.pulled(name)) is not None:
            found[name] = Listed(pulled[0], "", pulled[1])
    return [found[name] for name in sorted(found)]


def pull(name: str, home: Home, given: str | None = None) -> str:
    """Get a model as its zoo has it now; says what was done.

    Raises:
        UserError: there is none of this name, or it cannot be had.
    """
    there = listed(given, home)
    one = there.get(name) or find(name, home, given)
    if one is None:
        raise UserError(no_such(name, sorted({*there, *home.names()})))
    entry = one.entry
    if entry.loads:
        return f"{name}: its library fetches and keeps it when it is loaded ({entry.loads})"
    if not entry.files:
        raise UserError(f"{name}: its weights are not published; to train it again: {entry.reproduce}")
    if one.in_place:
        weights_of(name, home)
        return f"{name}: comes with the package ({one.folder})"
    if not one.base:
        if wrong := troubles(one, home):
            raise _lost(one, home, wrong)
        return f"{name}: is here, in {home.model(name)}; no zoo has it now"
    fetching.pull(entry, one.base, one.origin, home)
    return f"{name}: {plural(len(entry.files), 'file')} in {home.model(name)}"


def troubles(one: Listed, home: Home) -> list[str]:
    """What is wrong with the files of a model on this machine, every byte of which is read."""
    said = [(file, fetching.trouble(one.file(file.name, home), file, home, again=True)) for file in one.entry.files]
    return [f"{file.name}: {wrong}" for file, wrong in said if wrong]


def remove(name: str, home: Home) -> str:
    """Remove a pulled model, or what is left of one, from this machine; says what was done.

    Raises:
        UserError: it was not pulled.
    """
    folder = home.model(name)
    if not os.path.lexists(folder):
        why = " (it comes with the package)" if name in _package() else ""
        raise UserError(f"{name} is not in {home.folder}{why}{near(name, home.names(), most=3)}")
    with home.lock(name):
        try:
            folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
        except OSError as error:
            raise UserError(f"{folder} cannot be removed: {error.strerror}") from None
    return f"removed {folder}"


def _package() -> dict[str, Listed]:
    base = str(bundled("model_zoo"))
    return {entry.name: Listed(entry, base, "the package", in_place=True) for entry in _of_package()}


@functools.cache
def _of_package() -> tuple[Entry, ...]:
    return tuple(read(path) for path in sorted(bundled("model_zoo").glob("*.yaml")))


def _of_zoo(address: str, home: Home) -> Iterator[Listed]:
    check_secrets(address)
    if not is_remote(address) or address.startswith("file://"):
        folder = path_of(address)
        if not folder.is_dir():
            raise UserError(f"{folder} is no zoo: no such folder (named by {ZOO_VARIABLE} or --from)")
        for path in sorted(folder.glob("*.yaml")):
            yield Listed(read(path), str(folder.resolve()), str(folder))
        return
    for name, entry in _cards(address, home).items():
        if entry.name != name:
            raise UserError(f"{shown(address)}: the card {name!r} of its index is that of {entry.name!r}")
        bad = [source for file in entry.files for source in file.sources if source.startswith("file:")]
        if bad:
            raise UserError(
                f"{shown(address)}: {name}: a zoo on the network must not name files of this machine: {bad[0]}"
            )
        yield Listed(entry, address, shown(address))


def _cards(address: str, home: Home) -> dict[str, Entry]:
    """Cards of a zoo on the network; without one those of the last time."""
    where = absolute(address, INDEX)
    kept = home.index(address)
    try:
        text = fetched_index(where, home)
    except RemoteError as error:
        if not kept.is_file():
            raise UnreachableError(f"the zoo {shown(address)} cannot be read: {error.detail}") from None
        to_stderr(f"the zoo {shown(address)} cannot be read ({error.detail}): its index of the last time is used")
        text = schema.read_bytes(kept, _LARGEST_INDEX)
    else:
        try:
            replace_file(kept, text)
        except OSError as error:
            raise UserError(home.unusable(error)) from None
    return parsed(text, where)


def parsed(text: bytes, where: str) -> dict[str, Entry]:
    """The cards of an index.

    Args:
        text: of the index.
        where: it comes from, for messages.

    Raises:
        UserError: it is none.
    """
    found = schema.check(Index, schema.parse(text, shown(where)), shown(where))
    if found["format"] != INDEX_FORMAT:
        raise UserError(f"{shown(where)} has format {found['format']}, this version reads {INDEX_FORMAT}")
    return {name: from_plain(card, f"{shown(where)}, {name!r}") for name, card in found["cards"].items()}


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
