"""Which models there are: of the package, of the zoos that ``FOUNDATION_ZOO`` names, and those that were pulled.

A zoo is a folder of cards, ``NAME.yaml``, as ``model_zoo`` of this package is one. On the network it has an index too,
``index.json`` with all cards, so that one answer tells what there is.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from foundation.errors import UserError
from foundation.paths import bundled
from foundation.plugins import near
from foundation.redact import redact
from foundation.voice import plural, to_stderr
from foundation.zoo import fetch as fetching
from foundation.zoo.cards import ZOO_VARIABLE, Listed, UnreachableError, of_zoo
from foundation.zoo.entry import Entry, is_name, matches, no_such, read
from foundation.zoo.home import Home


def addresses(given: str | None = None) -> list[str]:
    """Zoos to look in beside that of the package: what is given, else the words of ``FOUNDATION_ZOO``."""
    return (os.environ.get(ZOO_VARIABLE, "") if given is None else given).split()


def listed(given: str | None = None, home: Home | None = None, only: str | None = None) -> dict[str, Listed]:
    """All models that can be had, by name. Of two with one name the first zoo's counts: those of ``FOUNDATION_ZOO`` in
    its order, then the package's.

    Args:
        given: a zoo to look in alone, folder or address.
        home: with the last index of zoos on the network.
        only: look for this name alone; no other card is read.

    Raises:
        UserError: a zoo cannot be read, or the card of ``only``. A zoo of ``FOUNDATION_ZOO`` that is out of reach is
            left out with a warning, as is a card that cannot be read.
    """
    home = home or Home()
    found: dict[str, Listed] = {}
    for address in addresses(given):
        try:
            for one in of_zoo(address, home, only):
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
    return listed(given, home, name).get(name)


def require(name: str, home: Home | None = None, given: str | None = None) -> Listed:
    """As :func:`find`, of a model that must be there.

    Raises:
        UserError: there is none; names those with names like it.
    """
    home = home or Home()
    found = find(name, home, given)
    if found is None:
        raise UserError(no_such(name, _names(given, home)))
    return found


def _names(given: str | None, home: Home) -> list[str]:
    """All names that there are."""
    return sorted({*listed(given, home), *home.names()})


def named(text: str) -> Entry | None:
    """The card of a model by its name; None for what is none.

    Raises:
        UserError: a zoo cannot be read.
    """
    found = find(text) if is_name(text) else None
    return None if found is None else found.entry


def near_name(text: str) -> str:
    """``; did you mean ...?`` where models of the zoo have names like this one."""
    return near(text, _names(None, Home()), most=3) if is_name(text) else ""


def weights_of(name: str, home: Home | None = None, fetch: bool = True, heads: bool = False) -> Path:
    """Path of a model's weights, which are pulled where they are not here; all files have been compared with its card.

    Args:
        name: of a model that has files.
        home: where models are pulled to.
        fetch: pull what is not here; else that is an error.
        heads: the heads, which lie beside them, are wanted too.

    Raises:
        UserError: there is no such model, or it cannot be had.
    """
    home = home or Home()
    one = require(name, home)
    assert one.entry.weights is not None, name
    path = one.file(one.entry.weights.name, home)
    if one.in_place:
        for file in one.entry.files if heads else one.entry.needed:
            if wrong := fetching.trouble(one.file(file.name, home), file, home):
                raise UserError(f"{one.file(file.name, home)}: {wrong}: install the package again")
        return path
    if fetching.is_here(one.entry, home, heads):
        return path
    what = f"{name} with its heads" if heads else name
    if not fetch:
        option = " --heads" if heads else ""
        raise UserError(f"{what} is not on this machine: 'foundation zoo pull {name}{option}' gets it")
    if not one.base:  # a damaged copy, or one without its heads: from where it came
        here, there = one, listed(None, home, name).get(name)
        if there is None:
            raise _lost(here, home, troubles(here, home) or ["its heads were not pulled"])
        one = there
    to_stderr(f"{what} is not here yet: it is pulled from {redact(one.origin)} into {home.folder}")
    fetching.pull(one.entry, one.base, one.origin, home, heads)
    return path


def _lost(one: Listed, home: Home, wrong: Sequence[str]) -> UserError:
    return UserError(
        f"{one.entry.name} in {home.folder} is not whole ({'; '.join(wrong)}) and no zoo has it now: it came from "
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
        try:
            if (pulled := home.pulled(name)) is not None:
                found[name] = Listed(pulled[0], "", pulled[1])
        except UserError as error:
            to_stderr(f"left out: {error}")
    return [found[name] for name in sorted(found)]


def pull(name: str, home: Home, given: str | None = None, heads: bool = False) -> str:
    """Get a model as its zoo has it now, with ``heads`` the heads that it was trained with too; says what was done.

    Raises:
        UserError: there is none of this name, or it cannot be had.
    """
    one = listed(given, home, name).get(name) or find(name, home, given)
    if one is None:
        raise UserError(no_such(name, _names(given, home)))
    entry = one.entry
    if heads and entry.heads is None:
        raise UserError(f"{name}: its heads are not published")
    if entry.loads:
        return f"{name}: its library fetches and keeps it when it is loaded ({entry.loads})"
    if not entry.files:
        raise UserError(f"{name}: its weights are not published; to train it again: {entry.reproduce}")
    if one.in_place:
        weights_of(name, home)
        return f"{name}: comes with the package ({one.folder})"
    if not one.base:
        if wrong := troubles(one, home, heads):
            raise _lost(one, home, wrong)
        return f"{name}: is here, in {home.model(name)}; no zoo has it now"
    files = fetching.pull(entry, one.base, one.origin, home, heads)
    return f"{name}: {plural(len(files), 'file')} in {home.model(name)}"


def troubles(one: Listed, home: Home, heads: bool = False) -> list[str]:
    """What is wrong with the files of a model on this machine, every byte of which is read; heads may be missing where
    nobody wants them."""
    needed = one.entry.files if heads or one.in_place else one.entry.needed
    files = [file for file in one.entry.files if file in needed or one.file(file.name, home).exists()]
    said = [(file, fetching.trouble(one.file(file.name, home), file, home, again=True)) for file in files]
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
